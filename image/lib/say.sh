# What every part of the build uses: messages with times, and errors that end it.

# Prints a line with the seconds since the start.
say() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }

# Ends the build with a reason.
die() {
    printf 'image/build: %s\n' "$*" >&2
    exit 1
}

# The lines of a list file without comments, one word a line.
words() { sed -e 's/#.*//' "$1" | tr -s ' \t' '\n\n' | sed '/^$/d'; }

# One key for the contents and names of the given files and folders (paths below the current one).
key_of() {
    find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16
}
