/* Work on torch's threads. */

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

/* The number of elements from which on a second thread is faster. */
enum { GRAIN = 16384 };

/* A function that does the pieces [from, to) of a task. */
typedef void work(int64_t from, int64_t to, void *task);

/* Does `pieces` pieces of n elements each. Returns whether they were done. */
int in_parallel(int64_t pieces, int64_t n, work *some, void *task);
