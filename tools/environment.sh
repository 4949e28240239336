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
    make_pip "$dir"
    take_sources "$dir"
    quietly "$dir/bin/pip" install --disable-pip-version-check "$dir.sources${extra:+[$extra]}"
}

# make_pip DIR: a virtual environment in DIR with nothing but pip.
make_pip() {
    [ -x "$1/bin/pip" ] || { rm -rf "$1"; quietly "$python" -m venv "$1"; }
}

# take_sources DIR: what an installation is made of, in DIR.sources, where no other build and nothing that one has left
# is in the way.
take_sources() {
    rm -rf "$1.sources"
    mkdir "$1.sources"
    cp -r setup.py pyproject.toml README.md LICENSE MANIFEST.in vswitch "$1.sources"
}

# make_copy DIR ENVIRONMENT: this checkout installed in DIR, without what it needs, for PYTHONPATH; by the pip of
# ENVIRONMENT, which may be in the making.
make_copy() {
    make_once "$1" install_copy "$2"
}

install_copy() {
    rm -rf "$1"
    take_sources "$1"
    quietly "$2/bin/pip" install --disable-pip-version-check --no-deps --target "$1" "$1.sources"
}

# make_once DIR COMMAND ARGUMENT: COMMAND makes DIR, unless it is there already from the same sources.
make_once() {
    local dir=$1 stamp
    mkdir -p "$root/.cache"
    exec 9>"$dir.lock"
    flock 9 # two first uses at once make one environment
    stamp=$(fingerprint)
    if [ "$(cat "$dir/fingerprint" 2>/dev/null)" != "$stamp" ]; then
        say "Setting up vswitch in ${dir#"$root"/} (some minutes; once, and when the sources change) ..."
        (cd "$root" && "$2" "$dir" "$3")
        rm -rf "$dir.sources"
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
