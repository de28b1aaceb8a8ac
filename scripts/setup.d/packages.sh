# shellcheck shell=bash disable=SC1091,SC2154,SC2317
# Packages of the distribution. Sourced by scripts/setup. Starts no service, creates no cluster.

# The packages that are missing for a mode, one per line.
missing_packages() {
    local mode=$1
    command -v cc >/dev/null || printf '%s\n' gcc libc6-dev
    command -v make >/dev/null || echo make
    command -v git >/dev/null || echo git
    command -v openssl >/dev/null || echo openssl
    command -v patchelf >/dev/null || echo patchelf
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
    [ -e /usr/share/zoneinfo/UTC ] || echo tzdata
    [ -x /usr/sbin/pgbouncer ] || command -v pgbouncer >/dev/null || echo pgbouncer
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ||
        printf '%s\n' postgresql postgresql-client postgresql-contrib
    if [ "$mode" != demo ] && ! command -v npm >/dev/null &&
        ! { has_version 14 && has_version 16 && has_version 18; }; then
        echo npm
    fi
    if [ "$mode" = bench ]; then
        command -v pgcopydb >/dev/null || echo pgcopydb
        compgen -G '/usr/lib/postgresql/*/bin/pgbench' >/dev/null || echo postgresql-contrib
    fi
}

need_packages() {
    local mode=$1 missing
    missing=$(missing_packages "$mode" | sort -u | tr '\n' ' ')
    missing=${missing% }
    [ -z "$missing" ] && return 0
    command -v apt-get >/dev/null ||
        fail "missing: $missing (or what your system calls them); only apt is known here"
    if ! is_root; then
        say "missing packages: $missing"
        fail "run once:  sudo scripts/setup $mode"
    fi
    say "installing $missing"
    # A subshell, so that its EXIT trap restores what it changed whatever happens.
    (install_packages "$missing") || fail "the packages could not be installed"
}

install_packages() {
    local missing=$1 apt
    # Not local: the trap runs when this function is over.
    policy=/usr/sbin/policy-rc.d cluster=/etc/postgresql-common/createcluster.conf
    kept=$(mktemp -d) || exit 1
    apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y -q
        -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=300
        install --no-install-recommends)
    restore() {
        if [ -e "$kept/policy" ]; then cp -p "$kept/policy" "$policy"; else rm -f "$policy"; fi
        [ -e "$kept/cluster" ] && cp -p "$kept/cluster" "$cluster"
        rm -rf "$kept"
    }
    [ -e "$policy" ] && cp -p "$policy" "$kept/policy"
    trap restore EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"

    # Called where `set -e` does not reach.
    quietly apt-get -q -o DPkg::Lock::Timeout=300 update || exit 1
    if [[ " $missing " == *" postgresql "* ]]; then
        # This brings the file that says whether the next one creates a cluster.
        quietly "${apt[@]}" postgresql-common || exit 1
        cp -p "$cluster" "$kept/cluster" || exit 1
        echo 'create_main_cluster = false' >>"$cluster" || exit 1
    fi
    # shellcheck disable=SC2086
    quietly "${apt[@]}" $missing || exit 1
    if [[ " $missing " == *" pgbouncer "* ]] && [ -d /run/systemd/system ]; then
        # Nor after the next boot: a pooler that nobody configured helps nobody.
        systemctl disable --quiet pgbouncer 2>/dev/null || true
    fi
}
