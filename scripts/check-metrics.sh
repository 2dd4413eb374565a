#!/usr/bin/env bash
# Has promtool check the alert rules, and the form of a scrape: of a file (`check-metrics.sh scrape.txt`), or, without one, of the scrape
# that `cargo test --test dashboards` leaves. promtool is in Debian's package `prometheus`; no daemon is needed.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v promtool >/dev/null || { echo "check-metrics.sh: promtool is missing: apt-get install prometheus" >&2; exit 2; }
scrape=${1:-target/tmp/scrape.txt}
[ -r "$scrape" ] || { echo "check-metrics.sh: $scrape cannot be read: cargo test --test dashboards writes it" >&2; exit 2; }
promtool check rules scripts/prometheus/alerts.yml
# promtool reads the older text format: what OpenMetrics has beside it is left out or spelt as there. A counter's family has its `_total`.
awk '
    $1 == "#" && $2 == "TYPE" { kind[$3] = $4 }
    { lines[NR] = $0 }
    END {
        for (i = 1; i <= NR; i++) {
            n = split(lines[i], word, " ")
            if (word[1] == "#" && word[2] == "EOF") continue
            if (word[1] == "#" && kind[word[3]] == "counter") sub(word[3], word[3] "_total", lines[i])
            print lines[i]
        }
    }' "$scrape" | promtool check metrics
