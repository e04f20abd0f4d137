/*
 * verify.c
 *		prompt_stats_verify(): whether the tables are as they should be, check by check.
 */
#include "prompt_stats.h"

PG_FUNCTION_INFO_V1(prompt_stats_verify);

Datum
prompt_stats_verify(PG_FUNCTION_ARGS)
{
	elog(ERROR, "not built yet");
}
