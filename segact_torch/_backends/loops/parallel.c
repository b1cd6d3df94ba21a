/* Work on torch's threads. */

#include "parallel.h"

#include <stddef.h>

/* torch's function that runs a range on its threads, exported since 2.10. */
static int32_t (*share_range)(int64_t from, int64_t to, int64_t grain, work *, void *task);

/* Sets that function; before this call, and with NULL, there is one thread. */
EXPORT void segact_parallel(void *torch_parallel_for) {
    share_range = (int32_t(*)(int64_t, int64_t, int64_t, work *, void *))torch_parallel_for;
}

int in_parallel(int64_t pieces, int64_t n, work *some, void *task) {
    int64_t grain = (GRAIN + n - 1) / n;
    if (share_range != NULL && pieces > grain)
        return share_range(0, pieces, grain, some, task) == 0;
    some(0, pieces, task);
    return 1;
}

/* The checksum of the source files that were compiled. */
EXPORT uint32_t segact_source(void) {
    return SEGACT_SOURCE;
}
