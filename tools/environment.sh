# For tools/vswitch and tools/test: virtual environments under .cache/, made on first use and again when
# something they are made of has changed. Sourced by bash; expects `root`.

say() { printf '\033[2m%s\033[0m\n' "$*" >&2; }
[ -t 2 ] && [ -z "${NO_COLOR:-}" ] || say() { printf '%s\n' "$*" >&2; }

# What an installation depends on: the sources, how they are built, and the Python they run on.
fingerprint() {
    (
        cd "$root" || exit
        "$python" --version
        echo "${VSWITCH_PURE:-}"
        find vswitch -name '*.py' -print0 | LC_ALL=C sort -z | xargs -0 cat setup.py pyproject.toml README.md
    ) | sha256sum | cut -d' ' -f1
}

# make_environment DIR [EXTRA]: a virtual environment in DIR with this checkout and its EXTRA.
make_environment() {
    make_once "$1" install_environment "${2:-}"
}

install_environment() {
    local dir=$1 extra=$2
    [ -x "$dir/bin/pip" ] || { rm -rf "$dir"; quietly "$python" -m venv "$dir"; }
    quietly "$dir/bin/pip" install --disable-pip-version-check "$root${extra:+[$extra]}"
}

# make_copy DIR ENVIRONMENT: this checkout installed in DIR, without what it needs, for PYTHONPATH.
make_copy() {
    make_once "$1" install_copy "$2"
}

install_copy() {
    rm -rf "$1"
    quietly "$2/bin/pip" install --disable-pip-version-check --no-deps --target "$1" "$root"
}

# make_once DIR COMMAND ARGUMENT: COMMAND makes DIR, unless it is there already from the same sources.
make_once() {
    local dir=$1 stamp
    mkdir -p "$root/.cache"
    exec 9>"$root/.cache/lock"
    flock 9 # two first uses at once make one environment
    stamp=$(fingerprint)
    if [ "$(cat "$dir/fingerprint" 2>/dev/null)" != "$stamp" ]; then
        say "Setting up vswitch in ${dir#"$root"/} (once, and when the sources change) ..."
        rm -rf "$root/build" # what an earlier build left behind would be installed again
        "$2" "$dir" "$3"
        echo "$stamp" >"$dir/fingerprint"
    fi
    exec 9>&-
}

# quietly COMMAND...: its output only if it fails.
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        say "vswitch: failed: $*"
        say "On Debian this needs: apt install python3-venv python3-dev gcc (no compiler: VSWITCH_PURE=1, which is slow)"
        exit 1
    fi
    rm -f "$log"
}

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "vswitch: needs Python 3.11 or later as $python; on Debian: apt install python3-venv python3-dev gcc"
    exit 1
fi
