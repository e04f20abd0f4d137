/*
 * end_process.c
 *		A function that ends its process with FATAL, as what a trigger calls might do.
 */
#include "postgres.h"

#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(end_process);

Datum
end_process(PG_FUNCTION_ARGS)
{
	ereport(FATAL,
			(errcode(ERRCODE_ADMIN_SHUTDOWN),
			 errmsg("end_process() was called")));
}
