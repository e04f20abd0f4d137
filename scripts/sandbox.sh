#!/usr/bin/env bash
#
# Runs a command in a private copy of the tree, built, and installed into a
# private copy of the server, as a user who is not root.  Leaves nothing behind.
#
#   scripts/sandbox.sh COMMAND [ARGUMENT...]
#
# The command starts in the copy, with the server's programs first in PATH and
# PGHOST and PGDATA set for a cluster that cluster.sh can start.  However it
# ends, the processes that it started end too.  KEEP=1 keeps the files.
set -euo pipefail

cd "$(dirname "$0")/.."
scripts/deps.sh build
# shellcheck source=scripts/pg_config.sh
. scripts/pg_config.sh

# Under /tmp, whatever TMPDIR says: the path of a socket has room for 107 bytes
work=$(mktemp -d /tmp/prompt_stats.XXXXXX)
child=

# A number in a postmaster.pid may be stale, and somebody else's by now
servers()
{
	find "$work" -name postmaster.pid -exec head -qn 1 {} + 2>/dev/null |
		while read -r pid; do
			[[ $(readlink "/proc/$pid/cwd") != "$work"/* ]] || echo "$pid"
		done
}

cleanup()
{
	trap '' INT TERM HUP
	if [ -n "$child" ]; then
		kill -TERM -- "-$child" 2>/dev/null || true
		# bench/lib/warm.py stops clients
		kill -CONT -- "-$child" 2>/dev/null || true
		wait "$child" || true
	fi

	# Servers are not in the process group any more
	while [ -n "$(servers)" ]; do
		servers | xargs -r kill -QUIT || true
		sleep 0.1
	done

	if [ -n "${KEEP-}" ]; then
		echo "kept: $work"
	else
		rm -rf "$work"
	fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

mkdir "$work"/{tree,stage,socket,tmp}
tar -cf - --exclude=./.git --exclude='*.o' --exclude='*.bc' --exclude='*.so' . | tar -xf - -C "$work/tree"
if [ -n "${DATA-}" ]; then
	mkdir "$work/legacy"
	cp "$DATA"/*.csv "$work/legacy"
	export DATA=$work/legacy
fi

# A server refuses to run as root
as_user=()
if [ "$(id -u)" = 0 ]; then
	chown -R nobody "$work"
	as_user=(setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups)
fi

# No setting of the caller's shell may change a result
for name in "${!PG@}" MAKEFLAGS MAKELEVEL; do
	[ "$name" = PG_CONFIG ] || unset "$name"
done
export PG_CONFIG
export HOME=$work TMPDIR=$work/tmp LC_ALL=C.UTF-8
export PGHOST=$work/socket PGDATA=$work/data PGDATABASE=postgres

# In a process group of its own, which can be ended as a whole
cd "$work/tree"
setsid "${as_user[@]}" scripts/stage.sh "$work/stage" "$@" </dev/null &
child=$!
wait "$child"
