#!/usr/bin/env bash
#
# Builds the tree, installs it into a private copy of the server, and runs a
# command with that server first in PATH.
#
#   scripts/stage.sh DIRECTORY COMMAND [ARGUMENT...]
set -euo pipefail

stage=$1
shift
bindir=$("$PG_CONFIG" --bindir)

# A server looks for its files relative to its program, hence a copy of the
# programs and symbolic links to the rest
mkdir -p "$stage$bindir"
cp -L "$bindir"/* "$stage$bindir"
for what in pkglibdir sharedir pkgincludedir; do
	dir=$("$PG_CONFIG" --$what)
	mkdir -p "$stage$dir"
	cp -rs "$dir"/. "$stage$dir"
done
# An installed copy of ours is not what we test; it may be a directory of bitcode
find "$stage" -depth -name 'prompt_stats*' -exec rm -rf {} +

# Its headers count as the system's, so that only our own code can raise warnings;
# a function that SQL calls need not use its parameter
make -s -j"$(nproc)" install with_llvm=no ${CC:+CC="$CC"} DESTDIR="$stage" \
	COPT="-isystem $("$PG_CONFIG" --includedir-server) -Wall -Wextra -Werror -Wno-unused-parameter ${COPT-}"

export PATH=$stage$bindir:$PATH PG_CONFIG=$stage$bindir/pg_config
exec "$@"
