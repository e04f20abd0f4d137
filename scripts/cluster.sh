# shellcheck shell=bash
#
# Sourced inside sandbox.sh, which also stops the server.
#
#   start_server [OPTION...]    of postgres; SERVER_PRELOAD is its LD_PRELOAD
start_server()
{
	initdb --auth=trust --no-sync >"$HOME/initdb.log" || { cat "$HOME/initdb.log"; return 1; }
	LD_PRELOAD=${SERVER_PRELOAD-} pg_ctl -s -w -l "$PGDATA/server.log" \
		-o "-c listen_addresses= -c unix_socket_directories=$PGHOST $*" start ||
		{ cat "$PGDATA/server.log"; return 1; }
}
