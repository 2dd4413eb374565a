#!/usr/bin/env bash
# Prepares a host for a node in plain shell, with the same knobs as `synod tune`. Prints each change before it makes it, makes none
# twice, and brings back what was.
#
#   scripts/tune-host.sh list                 the knobs
#   scripts/tune-host.sh [OPTION]... apply    makes the changes
#   scripts/tune-host.sh [OPTION]... revert   takes them back
#
#   --dry-run                  print the changes, make none
#   --only KNOB                this knob; may be given more than once
#   --cores LIST               the pipelines' cores, as 2-3,8; without it governor and idle_states are for all cores, and
#                              interrupts and steering stay as they are
#   --nic NAME                 the network card; without it no card is touched
#   --socket-buffer-bytes N    net.socket_buffer_bytes of the configuration (default 4194304)
#   --memlock-kib N            groups x wal.arena_bytes of the configuration (default 32768)
#   --state FILE               where the previous values are kept (default /var/lib/synod/tune-host.state)
#   --force                    revert also what others have changed since
#
# All but `limits` is gone after a boot: run it again then. What only the kernel's command line changes (isolcpus, nohz_full,
# rcu_nocbs) and hyper-threading are not here: see tuning.md.
set -uo pipefail

root=${SYNOD_ROOT:-} # the host's files lie below it: for tests
dry_run='' force='' failed=''
cores='' nic='' socket_buffer_bytes=4194304 memlock_kib=32768
state=$root/var/lib/synod/tune-host.state
only=()

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
    exit 2
}

# >>> How a value is read and written; `synod tune apply --output-script` takes these lines for its scripts.
fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    failed=1
}

# current KIND AT: what is there.
current() {
    case $1 in
    value | list | mask) cat -- "$root$2" ;;
    choice) sed -n 's/.*\[\(.*\)\].*/\1/p' -- "$root$2" ;;
    file) if [[ -e $root$2 ]]; then base64 -w0 -- "$root$2"; else echo absent; fi ;;
    ring_rx) ethtool -g "$2" | awk '/^Current/ { now = 1 } now && $1 == "RX:" { print $2 }' ;;
    ring_tx) ethtool -g "$2" | awk '/^Current/ { now = 1 } now && $1 == "TX:" { print $2 }' ;;
    adaptive_rx) ethtool -c "$2" | awk '/^Adaptive RX:/ { print $3 }' ;;
    rx_usecs) ethtool -c "$2" | awk '$1 == "rx-usecs:" { print $2 }' ;;
    esac
}

# put KIND AT WHAT: makes it so.
put() {
    case $1 in
    value | list | mask) printf '%s\n' "$3" >"$root$2" ;;
    choice)
        if [[ -z $root ]]; then
            printf '%s\n' "$3" >"$2"
        else # no kernel is there to move the brackets
            sed -i -e 's/[][]//g' -e "s/\\b$3\\b/[$3]/" -- "$root$2"
        fi
        ;;
    file) if [[ $3 == absent ]]; then rm -f -- "$root$2"; else base64 -d <<<"$3" >"$root$2"; fi ;;
    ring_rx) ethtool -G "$2" rx "$3" ;;
    ring_tx) ethtool -G "$2" tx "$3" ;;
    adaptive_rx) ethtool -C "$2" adaptive-rx "$3" ;;
    rx_usecs) ethtool -C "$2" rx-usecs "$3" ;;
    esac
}

# canonical KIND WHAT: masks come with and without leading zeros and commas.
canonical() {
    if [[ $1 == mask ]]; then sed 's/,//g; s/^0*//' <<<"$2"; else printf '%s\n' "$2"; fi
}

same() {
    [[ $(canonical "$1" "$2") == "$(canonical "$1" "$3")" ]]
}

# shown KIND WHAT: files in short.
shown() {
    if [[ $1 == file && $2 != absent ]]; then echo "$(base64 -d <<<"$2" | cksum | cut -d' ' -f2) bytes"; else echo "$2"; fi
}

# place KIND AT: where it is, for people.
place() {
    if [[ $2 == /* ]]; then echo "$2"; else echo "$2 $1"; fi
}

# change KNOB KIND AT WHAT: prints the change, keeps what was, makes it; nothing where it is so already.
change() {
    local now
    if ! now=$(current "$2" "$3"); then
        fail "$1: cannot read $3"
        return
    fi
    same "$2" "$now" "$4" && return
    printf '%s: %s: %s -> %s\n' "$1" "$(place "$2" "$3")" "$(shown "$2" "$now")" "$(shown "$2" "$4")"
    [[ -z $dry_run ]] || return
    remember "$1" "$2" "$3" "$now" "$4" || return
    put "$2" "$3" "$4" || fail "$1: cannot write $3"
}
# <<<

# remember KNOB KIND AT WAS SET: a line of the state file. What was before our own last change stays what was.
remember() {
    local line was=$4 before set
    if ! { mkdir -p -- "$(dirname -- "$state")" && touch -- "$state"; }; then
        fail "cannot write $state"
        return 1
    fi
    line=$(awk -F'\t' -v kind="$2" -v at="$3" '$2 == kind && $3 == at' "$state")
    if [[ -n $line ]]; then
        IFS=$'\t' read -r _ _ _ before set <<<"$line"
        same "$2" "$4" "$set" && was=$before
    fi
    {
        awk -F'\t' -v kind="$2" -v at="$3" '!($2 == kind && $3 == at)' "$state"
        printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$was" "$5"
    } >"$state.new" && mv -- "$state.new" "$state"
}

# Sets of CPUs, one number a line: from a list, to a list, from a mask, to a mask.
numbers() {
    local part
    for part in ${1//,/ }; do seq "${part%-*}" "${part#*-}"; done
}

as_list() {
    sort -nu | awk '
        NR > 1 && $1 == to + 1 { to = $1; next }
        NR > 1 { printf "%s%s,", from, (to > from ? "-" to : "") }
        { from = to = $1 }
        END { if (NR) printf "%s%s", from, (to > from ? "-" to : "") }'
}

numbers_of_mask() {
    local digits=${1//,/} at bit
    for ((at = 0; at < ${#digits}; at++)); do
        for bit in 0 1 2 3; do
            ! ((0x${digits:${#digits}-1-at:1} >> bit & 1)) || echo $((4 * at + bit))
        done
    done
}

as_mask() {
    local cpu word top=0 words=()
    while read -r cpu; do
        ((words[cpu / 32] |= 1 << cpu % 32, top = cpu / 32 > top ? cpu / 32 : top))
    done
    printf '%x' "${words[top]:-0}"
    for ((word = top - 1; word >= 0; word--)); do printf ',%08x' "${words[word]:-0}"; done
}

# Of the numbers on stdin, those that are the pipelines', or are not.
shared() { grep -xF -f <(numbers "$cores"); }
without() { grep -vxF -f <(numbers "$cores"); }

online() { cat "$root/sys/devices/system/cpu/online"; }

busy_cores() { if [[ -n $cores ]]; then numbers "$cores"; else numbers "$(online)"; fi; }

knob_governor() {
    local cpu file
    for cpu in $(busy_cores); do
        file=/sys/devices/system/cpu/cpu$cpu/cpufreq/scaling_governor
        [[ ! -e $root$file ]] || change governor value "$file" performance
    done
}

# Through /dev/cpu_dma_latency the same holds only for as long as a process keeps it open.
knob_idle_states() {
    local cpu idle
    for cpu in $(busy_cores); do
        for idle in "$root/sys/devices/system/cpu/cpu$cpu/cpuidle"/state*; do
            if [[ -e $idle/latency ]] && (($(<"$idle/latency") > 10)); then
                change idle_states value "${idle#"$root"}/disable" 1
            fi
        done
    done
}

knob_huge_pages() {
    local file=/sys/kernel/mm/transparent_hugepage/enabled
    [[ $(current choice $file) != always ]] || change huge_pages choice $file madvise
}

knob_swap() {
    (($(wc -l <"$root/proc/swaps") > 1)) && (($(<"$root/proc/sys/vm/swappiness") > 1)) || return
    change swap value /proc/sys/vm/swappiness 1
}

knob_socket_buffers() {
    local name
    for name in rmem_max wmem_max; do
        (($(<"$root/proc/sys/net/core/$name") >= socket_buffer_bytes)) ||
            change socket_buffers value /proc/sys/net/core/$name "$socket_buffer_bytes"
    done
}

# The kernel refuses this for interrupts that it manages itself (queues of NVMe drives): isolcpus=managed_irq moves those.
knob_interrupts() {
    local irq file effective rest disturbing=''
    [[ -n $cores ]] || return
    for irq in $(cd "$root/proc/irq" && printf '%s\n' [0-9]* | sort -n); do
        file=/proc/irq/$irq/smp_affinity_list
        effective=$(cat "$root/proc/irq/$irq/effective_affinity_list" 2>/dev/null)
        [[ -n $effective ]] || effective=$(<"$root$file")
        [[ -n $(numbers "$effective" | shared) ]] || continue
        disturbing=1
        rest=$(numbers "$(<"$root$file")" | without | as_list)
        [[ -n $rest ]] || rest=$(numbers "$(online)" | without | as_list)
        if [[ -n $rest ]]; then change interrupts list "$file" "$rest"; else fail "interrupts: no core is left for them"; fi
    done
    [[ -n $disturbing ]] || return
    file=/proc/irq/default_smp_affinity
    rest=$(numbers_of_mask "$(<"$root$file")" | without | as_mask)
    [[ $rest == 0 ]] || change interrupts mask "$file" "$rest"
}

knob_nic_rings() {
    local rx tx
    [[ -n $nic ]] || return
    rx=$(ethtool -g "$nic" 2>/dev/null | awk '$1 == "RX:" { print $2; exit }')
    tx=$(ethtool -g "$nic" 2>/dev/null | awk '$1 == "TX:" { print $2; exit }')
    # n/a: the card does not tell.
    [[ $rx$tx =~ ^[0-9]+$ ]] || return
    change nic_rings ring_rx "$nic" "$rx"
    change nic_rings ring_tx "$nic" "$tx"
}

knob_nic_coalescing() {
    local rx_usecs
    [[ -n $nic ]] || return
    rx_usecs=$(current rx_usecs "$nic" 2>/dev/null)
    [[ $(current adaptive_rx "$nic" 2>/dev/null) != on ]] || change nic_coalescing adaptive_rx "$nic" off
    [[ ! $rx_usecs =~ ^[0-9]+$ ]] || ((rx_usecs <= 10)) || change nic_coalescing rx_usecs "$nic" 0
}

knob_receive_steering() {
    local file cpus
    [[ -n $nic && -n $cores ]] || return
    for file in "$root/sys/class/net/$nic/queues"/rx-*/rps_cpus; do
        cpus=$(numbers_of_mask "$(<"$file")")
        [[ -z $(shared <<<"$cpus") ]] || change receive_steering mask "${file#"$root"}" "$(without <<<"$cpus" | as_mask)"
    done
}

# Cores without a queue are given to the queues in turn.
knob_transmit_steering() {
    local files file at=0 cpu steered='' add=()
    [[ -n $nic && -n $cores ]] || return
    mapfile -t files < <(printf '%s\n' "$root/sys/class/net/$nic/queues"/tx-*/xps_cpus | sort -V)
    ((${#files[@]} > 1)) || return
    for file in "${files[@]}"; do steered+=$(numbers_of_mask "$(<"$file")")$'\n'; done
    for cpu in $(numbers "$cores" | grep -vxF -f <(printf '%s' "$steered")); do
        add[at % ${#files[@]}]+=$cpu$'\n'
        at=$((at + 1))
    done
    for at in "${!add[@]}"; do
        file=${files[at]}
        change transmit_steering mask "${file#"$root"}" "$({ numbers_of_mask "$(<"$file")" && printf '%s' "${add[at]}"; } | as_mask)"
    done
}

# For logins; a systemd unit has LimitMEMLOCK and LimitRTPRIO of its own.
knob_limits() {
    local locked priority
    locked=$(ulimit -l) priority=$(ulimit -r)
    { [[ $locked == unlimited ]] || ((locked >= memlock_kib)); } &&
        { [[ $priority == unlimited ]] || ((priority >= 10)); } && return
    [[ -d $root/etc/security/limits.d ]] || return
    change limits file /etc/security/limits.d/90-synod.conf "$(base64 -w0 <<<"# For synod: what a node locks in memory, and the priority of its log's writer. Root needs neither.
* - memlock $memlock_kib
* - rtprio 10")"
}

knobs=(governor idle_states huge_pages interrupts swap socket_buffers nic_rings nic_coalescing receive_steering transmit_steering limits)

wanted() {
    [[ ${#only[@]} == 0 || " ${only[*]} " == *" $1 "* ]]
}

apply() {
    local knob
    for knob in "${knobs[@]}"; do
        ! wanted "$knob" || "knob_$knob"
    done
}

revert() {
    local knob kind at was set now kept=()
    [[ -s $state ]] || return
    while IFS=$'\t' read -r knob kind at was set; do
        now=$(current "$kind" "$at") || fail "$knob: cannot read $at"
        if ! wanted "$knob" || [[ -z $now ]]; then
            kept+=("$knob"$'\t'"$kind"$'\t'"$at"$'\t'"$was"$'\t'"$set")
        elif same "$kind" "$now" "$was"; then
            :
        elif [[ -z $force ]] && ! same "$kind" "$now" "$set"; then
            fail "$knob: $at is $(shown "$kind" "$now") by now, not the $(shown "$kind" "$set") that was set: left (--force)"
            kept+=("$knob"$'\t'"$kind"$'\t'"$at"$'\t'"$was"$'\t'"$set")
        else
            printf '%s: %s: %s -> %s\n' "$knob" "$(place "$kind" "$at")" "$(shown "$kind" "$now")" "$(shown "$kind" "$was")"
            [[ -n $dry_run ]] || put "$kind" "$at" "$was" || {
                fail "$knob: cannot write $at"
                kept+=("$knob"$'\t'"$kind"$'\t'"$at"$'\t'"$was"$'\t'"$set")
            }
        fi
    done < <(tac -- "$state")
    [[ -z $dry_run ]] || return
    if [[ ${#kept[@]} == 0 ]]; then rm -- "$state"; else printf '%s\n' "${kept[@]}" | tac >"$state.new" && mv -- "$state.new" "$state"; fi
}

in_form() {
    [[ $1 =~ $2 ]] || usage
}

command=''
while [[ $# -gt 0 ]]; do
    case $1 in
    --dry-run) dry_run=1 ;;
    --force) force=1 ;;
    --only | --cores | --nic | --socket-buffer-bytes | --memlock-kib | --state)
        [[ $# -ge 2 ]] || usage
        case $1 in
        --only) in_form "$2" "^($(IFS='|' && echo "${knobs[*]}"))\$" && only+=("$2") ;;
        --cores) in_form "$2" '^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$' && cores=$2 ;;
        --nic) in_form "$2" '^[^./][^/]*$' && nic=$2 ;;
        --socket-buffer-bytes) in_form "$2" '^[0-9]+$' && socket_buffer_bytes=$2 ;;
        --memlock-kib) in_form "$2" '^[0-9]+$' && memlock_kib=$2 ;;
        --state) state=$2 ;;
        esac
        shift
        ;;
    list | apply | revert)
        [[ -z $command ]] || usage
        command=$1
        ;;
    *) usage ;;
    esac
    shift
done

case $command in
list) printf '%s\n' "${knobs[@]}" ;;
apply | revert) "$command" ;;
*) usage ;;
esac
[[ -z $failed ]]
