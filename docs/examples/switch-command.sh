#!/usr/bin/env bash
# A traffic switch of kind `command`: drives a device whose console speaks lines over TCP.
#
#   switch:
#     - command: { argv: [/opt/cutover/switch-command.sh, 10.0.0.7, "7000"], timeout: 3s }
#
# The question is one line of JSON on standard input; the exit status is the answer:
#   0 done; 1 refused, and traffic is as it was; anything else: nobody knows.
# The contract is in docs/SWITCHES.md. Replace `device` by what talks to yours, and keep the three
# ways out.
set -uo pipefail

host=$1 port=$2
read -r question

# Names and numbers only, so no JSON program is needed.
text() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" <<<"$question"; }
number() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" <<<"$question"; }

refused() { echo "$*" >&2; exit 1; }
nobody_knows() { echo "$*" >&2; exit 2; }

# Asks the device, and waits for its answer at most the time we were given and a second.
device() {
    # Nothing was sent yet, so traffic is as it was.
    exec 3<>"/dev/tcp/$host/$port" || refused "nobody listens on $host:$port"
    printf '%s\n' "$*" >&3 || nobody_knows "the connection broke"
    local seconds=$((($(number within_ms) + 1999) / 1000))
    IFS= read -r -t "$seconds" answer <&3 || nobody_knows "no answer to: $*"
    exec 3>&-
}

case $(text action) in
observe)
    device observe
    read -r side state <<<"$answer"
    [[ $state == paused ]] && paused=true || paused=false
    printf '{"side": "%s", "paused": %s}\n' "$side" "$paused"
    ;;
pause)
    # The device lets clients flow again when it cannot drain in time, and says "refused".
    device pause "$(number within_ms)"
    [[ $answer == done ]] || refused "$answer"
    ;;
point_at)
    device point "$(text side)"
    [[ $answer == done ]] || refused "$answer"
    ;;
examine)
    echo '{"findings": []}'
    ;;
*)
    refused "unknown action in $question"
    ;;
esac
