# shellcheck shell=bash disable=SC1091,SC2154,SC2317
# PostgreSQL of another Debian release, complete with psql and pg_dump, beside the system.
# Sourced by scripts/setup. Uses the mirror and the keys the machine's own apt uses.

# The release of Debian that has this version.
debian_release() {
    case $1 in
    15) echo bookworm ;;
    17) echo trixie ;;
    18) echo sid ;;
    *) return 1 ;;
    esac
}

# from_debian MAJOR: false when this machine or Debian has no way.
from_debian() {
    local major=$1 release
    release=$(debian_release "$major") || return 1
    fetch_debian "$release" "pg$major" "usr/lib/postgresql/$major/bin" \
        "postgresql-$major" "postgresql-client-$major"
}

# The copy that ours is measured against, as new as Debian has it.
want_pgcopydb() {
    local bin
    for bin in "$servers/pgcopydb/bin" /usr/bin; do
        if "$bin/pgcopydb" --version 2>&1 | grep -qE 'version 0\.(1[7-9]|[2-9][0-9])'; then
            return 0
        fi
    done
    mkdir -p "$servers" || fail "cannot create $servers"
    fetch_debian trixie pgcopydb usr/bin pgcopydb || say "going on with an older pgcopydb"
}

# want_pgvector MAJOR: lays the extension beside a server that came from Debian (1 MB, and the list
# of packages). Without it only its types are not tested.
want_pgvector() {
    local major=$1 root=$servers/pg$1
    local lib=usr/lib/postgresql/$major/lib extension=usr/share/postgresql/$major/extension
    [ -d "$root/$extension" ] || return 0
    [ -e "$root/$extension/vector.control" ] && return 0
    (lay_pgvector) || say "going on WITHOUT pgvector for PostgreSQL $major: its types are not tested with it"
}

lay_pgvector() {
    local release get
    release=$(debian_release "$major") || return 1
    exec 9>"$servers/.lock" && flock 9 || return 1
    say "fetching pgvector for PostgreSQL $major from Debian $release"
    # Not local: the trap runs when this function is over.
    new=$(mktemp -d "$servers/.new-XXXXXX") || return 1
    trap 'rm -rf "$new"' EXIT
    debian_apt "$release" "$new/apt" || return 1
    (cd "$new" && quietly "${get[@]}" download "postgresql-$major-pgvector") || return 1
    quietly dpkg -x "$new"/postgresql-*.deb "$new/root" || return 1
    # What says that it is there comes last.
    cp "$new/root/$lib/vector.so" "$root/$lib/" &&
        cp "$new/root/$extension"/vector--*.sql "$root/$extension/" &&
        cp "$new/root/$extension/vector.control" "$root/$extension/"
}

# fetch_debian RELEASE NAME BINDIR PACKAGE...: the programs of BINDIR as $servers/NAME/bin.
fetch_debian() {
    local release=$1 name=$2 bindir=$3 new
    shift 3
    [ "$(distribution)" = debian ] || return 1
    command -v patchelf >/dev/null || return 1
    say "fetching $1 from Debian $release (about 100 MB)"
    new=$(mktemp -d "$servers/.new-XXXXXX") || return 1
    chmod 755 "$new"
    if unpack_debian "$release" "$new" "$name" "$bindir" "$@" && publish "$new/root" "$name"; then
        rm -rf "$new"
        return 0
    fi
    rm -rf "$new"
    say "could not get $1 from Debian $release"
    return 1
}

# unpack_debian RELEASE FOLDER NAME BINDIR PACKAGE...: leaves the result in FOLDER/root.
unpack_debian() {
    local release=$1 new=$2 name=$3 bindir=$4 apt="$2/apt" root="$2/root" deb get
    shift 4
    mkdir -p "$root" && debian_apt "$release" "$apt" || return 1
    quietly "${get[@]}" install -y --download-only "$@" || return 1
    for deb in "$apt"/cache/archives/*.deb; do
        quietly dpkg -x "$deb" "$root" || return 1
    done
    rm -rf "${root:?}"/usr/share/{doc,man,locale,info,lintian} \
        "${root:?}"/{boot,dev,home,proc,sys,var}
    own_libraries "$root" "$root/$bindir" "$servers/$name" || return 1
    ln -s "$bindir" "$root/bin.new" || return 1
    # Programs of the release itself are of no use here.
    rm -rf "${root:?}/bin" && mv "$root/bin.new" "$root/bin"
}

# debian_apt RELEASE FOLDER: an apt of its own in FOLDER that knows the packages of RELEASE, beside
# the system's. Its command is left in `get`.
debian_apt() {
    local release=$1 apt=$2 source
    source=$(debian_source "$release") || return 1
    mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,none,log} || return 1
    : >"$apt/state/status"
    echo "$source" >"$apt/sources.list"
    # An empty status file makes every library come along, libc included.
    cat >"$apt/apt.conf" <<CONF
Dir::State "$apt/state";
Dir::State::status "$apt/state/status";
Dir::Cache "$apt/cache";
Dir::Log "$apt/log";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "$apt/none";
Dir::Etc::preferences "$apt/none/preferences";
Dir::Etc::preferencesparts "$apt/none";
APT::Architecture "$(dpkg --print-architecture)";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
#clear APT::Default-Release;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
CONF
    # Seen by the caller, whose variable it is.
    get=(env "APT_CONFIG=$apt/apt.conf" apt-get -q -c "$apt/apt.conf")
    quietly "${get[@]}" update
}

# own_libraries ROOT BINDIR FINAL: makes programs use the libraries they came with, at the place
# where ROOT will be. An rpath, not a runpath: the libraries' own needs must follow it too.
own_libraries() {
    local root=$1 bindir=$2 final=$3 loader folder program
    loader=$(find "$root/usr/lib" "$root/usr/lib64" "$root/lib" "$root/lib64" \
        -name 'ld-linux*.so.*' 2>/dev/null | head -n 1)
    [ -n "$loader" ] || return 1
    folder=$(dirname "$(find "$root/usr/lib" "$root/lib" -name libc.so.6 2>/dev/null |
        head -n 1)")
    local path=$final${folder#"$root"}
    # Before the merge of /lib into /usr/lib, libraries are in both.
    path+=:$final/usr/lib/$(basename "$folder")
    for program in "$bindir"/*; do
        [ "$(head -c 4 "$program" | tail -c 3)" = ELF ] || continue
        patchelf --set-interpreter "$final${loader#"$root"}" --force-rpath --set-rpath "$path" \
            "$program" 2>/dev/null || return 1
    done
}

# debian_source RELEASE: one line for sources.list, with the mirror and the key of this machine.
debian_source() {
    local release=$1 name found
    name=$(codename)
    found=$(apt_sources | awk -F '\t' -v name="$name" '
        # mirror, suites, components, key
        (" " $3 " ") ~ / main / && ((" " $2 " ") ~ (" " name " ") || $2 ~ /^(stable|sid|testing)$/) {
            print $1 "\t" $4; exit
        }')
    [ -n "$found" ] || return 1
    local mirror=${found%%$'\t'*} key=${found#*$'\t'}
    if [ -z "$key" ] && [ -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
        key=/usr/share/keyrings/debian-archive-keyring.gpg
    fi
    echo "deb ${key:+[signed-by=$key] }$mirror $release main"
}

# The binary package sources of this machine, one per line: mirror, suites, components, key file;
# separated by tabs. Reads both formats of apt.
apt_sources() {
    local file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -r "$file" ] || continue
        awk '
            $1 != "deb" { next }
            {
                key = ""; rest = $0; sub(/^[ \t]*deb[ \t]+/, "", rest)
                if (rest ~ /^\[/) {
                    options = rest; sub(/\].*/, "", options); sub(/^\[/, "", options)
                    sub(/^\[[^]]*\][ \t]*/, "", rest)
                    count = split(options, option, /[ \t]+/)
                    for (i = 1; i <= count; i++)
                        if (option[i] ~ /^signed-by=\//) key = substr(option[i], 11)
                }
                sub(/#.*/, "", rest)
                count = split(rest, word, /[ \t]+/)
                parts = ""
                for (i = 3; i <= count; i++) parts = parts (parts == "" ? "" : " ") word[i]
                print word[1] "\t" word[2] "\t" parts "\t" key
            }' "$file"
    done
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -r "$file" ] || continue
        awk '
            function flush(    count, uri, i) {
                if (types ~ /(^| )deb( |$)/ && enabled !~ /^(no|false|off|0)$/) {
                    count = split(uris, uri, / +/)
                    for (i = 1; i <= count; i++)
                        if (uri[i] != "") print uri[i] "\t" suites "\t" parts "\t" key
                }
                types = uris = suites = parts = key = enabled = name = ""
            }
            /^#/ { next }
            /^[ \t]*$/ { flush(); next }
            {
                if ($0 !~ /^[ \t]/) { name = tolower($0); sub(/:.*/, "", name); sub(/^[^:]*:/, "") }
                gsub(/[ \t]+/, " "); sub(/^ /, ""); sub(/ $/, "")
                if ($0 == "") next
                if (name == "types") types = types " " $0
                else if (name == "uris") uris = uris " " $0
                else if (name == "suites") suites = suites (suites == "" ? "" : " ") $0
                else if (name == "components") parts = parts (parts == "" ? "" : " ") $0
                else if (name == "enabled") enabled = tolower($0)
                # A key written into the file itself cannot be named by path.
                else if (name == "signed-by" && $0 ~ /^\//) { key = $0; sub(/ .*/, "", key) }
            }
            END { flush() }' "$file"
    done
}
