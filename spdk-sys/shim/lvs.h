/* What lvs.c, lvol.c and lvol_guard.c share: lookups, and the guard against faults of SPDK 20.07. */
#ifndef CORRIENTE_SHIM_LVS_H
#define CORRIENTE_SHIM_LVS_H

#include "internal.h"

/*
 * Private to SPDK's lvol module and library: no release offers the lvol stores, their lvols or the
 * functions that keep lvols registered as bdevs in a public header.
 */
#include "bdev/lvol/vbdev_lvol.h"
#include "spdk_internal/lvolstore.h"

/* lvs.c. NULL when there is none of this name, or it is being unloaded. */
struct spdk_lvol_store *cs_find_lvs(const char *name);
/* lvol.c. NULL when there is none of this name, or it is being closed. */
struct spdk_lvol *cs_find_lvol(const char *lvs, const char *name);
/* lvol.c. Forgets what of the lvol's metadata is not on the disk, as it cannot be written any more. */
void cs_lvol_drop_unwritten(struct spdk_lvol *lvol);
/* lvol.c. Whether an lvol of the store is being made or changed. */
bool cs_lvs_is_changing(const struct spdk_lvol_store *store);
/* An lvol being closed still stands in its store's list, with pointers to what is freed already. */
static inline bool
cs_lvol_is_live(const struct spdk_lvol *lvol)
{
	return lvol->ref_count > 0 && lvol->blob != NULL;
}

/*
 * lvol_guard.c. To be called when lvols of the store were made, loaded or joined, before anybody can
 * know of them. Does nothing on releases that need no guard.
 */
void cs_guard_lvols(struct spdk_lvol_store *lvs);
/* To be called once after a store was loaded, before cs_guard_lvols. After an error it must be unloaded. */
int cs_guard_loaded(struct spdk_lvol_store *lvs);

#endif
