/* What bindgen reads: the shim's interface and the headers of the stable functions. */
#include "cs.h"
#include "spdk/stdinc.h"
#include "spdk/env.h"
#include "spdk/thread.h"
#include "spdk/bdev.h"
