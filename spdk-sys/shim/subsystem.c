/*
 * Bring-up of SPDK's subsystems (sock, bdev, vmd, nvmf, ...) without its application framework.
 *
 * `spdk_internal/event.h` (20.07) is internal: the functions moved to the public `spdk/init.h` in 21.07.
 * `event/subsystems/nvmf/event_nvmf.h` (newer releases) is private to SPDK's nvmf event module: how many subsystems its
 * target can hold is otherwise set by JSON-RPC only. 20.07 has a variable for it that no header declares.
 */
#include "internal.h"

#if CS_SPDK_SINCE(24, 1)
#include "event/subsystems/nvmf/event_nvmf.h"
#else
extern uint32_t g_spdk_nvmf_tgt_max_subsystems;
#endif
#if CS_SPDK_SINCE(21, 7)
#include "spdk/init.h"
#else
#include "spdk_internal/event.h"
#endif

static cs_done_cb g_start_cb;
static void *g_start_arg;
static cs_done_cb g_stop_cb;
static void *g_stop_arg;

static void
started(int rc, void *arg)
{
	(void)arg;
	g_start_cb(g_start_arg, rc);
}

static void
stopped(void *arg)
{
	(void)arg;
	g_stop_cb(g_stop_arg, 0);
}

int
cs_subsystems_start(const struct cs_subsystem_config *config, cs_done_cb cb, void *arg)
{
	struct spdk_bdev_opts opts = {};
	int rc;

#if CS_SPDK_SINCE(21, 1)
	spdk_bdev_get_opts(&opts, sizeof(opts));
#else
	spdk_bdev_get_opts(&opts);
#endif
	opts.bdev_io_pool_size = config->bdev_io_pool_size;
	opts.bdev_io_cache_size = config->bdev_io_cache_size;
	/* A guest that writes an lvstore into its volume must not make us claim that volume. */
	opts.bdev_auto_examine = false;
	rc = spdk_bdev_set_opts(&opts);
	if (rc != 0) {
		return rc;
	}
#if CS_SPDK_SINCE(24, 1)
	/* The module has set the options' size; the target is made of them when its subsystem starts. */
	g_spdk_nvmf_tgt_conf.opts.max_subsystems = config->nvmf_max_subsystems;
#else
	g_spdk_nvmf_tgt_max_subsystems = config->nvmf_max_subsystems;
#endif
	g_start_cb = cb;
	g_start_arg = arg;
	spdk_subsystem_init(started, NULL);
	return 0;
}

void
cs_subsystems_stop(cs_done_cb cb, void *arg)
{
	g_stop_cb = cb;
	g_stop_arg = arg;
	spdk_subsystem_fini(stopped, NULL);
}
