#!/usr/bin/env bash
# Lists lines with words that the documentation of the code avoids (words.txt), and fails if there are any.
# Arguments: files or directories; by default everything that is written for people, except CONTRIBUTING.md, which quotes
# the words.
set -euo pipefail
here=$(dirname "$0")
cd "$here/../.."
[ $# -gt 0 ] || set -- src cpp tests docs build.rs Makefile Cargo.toml README.md SECURITY.md CHANGELOG.md
words=$(grep -v '^#' tests/lint/words.txt | paste -sd'|')
files() { git ls-files -- "$@" | grep -vE '^(tests/lint|tests/fixtures)/|^CONTRIBUTING.md$|\.lock$'; }
# Lines of a patch that it removes or leaves are upstream's.
found=$(files "$@" | xargs -d '\n' grep -nPi "(?<![a-z])($words)(?![a-z])" |
    grep -vP '^cpp/engine/patches/[^:]+:\d+:[- ]' || true)
[ -z "$found" ] || { printf '%s\n' "$found"; echo "error: $(wc -l <<<"$found") lines with words of tests/lint/words.txt" >&2; exit 1; }
