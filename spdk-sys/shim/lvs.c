/* Lvol stores: format, find on a disk, list, rename, put away. */
#include "lvs.h"

#include "spdk/blob.h"

/* The store whose lvols are being put away one by one, before the lvol module hears of it. */
static struct spdk_lvol_store *g_unloading;

static bool
is_usable(const struct lvol_store_bdev *pair)
{
	/* The module sets a request on the pair when it unloads or destroys the store. */
	return pair->req == NULL && pair->lvs != g_unloading;
}

struct spdk_lvol_store *
cs_find_lvs(const char *name)
{
	struct lvol_store_bdev *pair;

	for (pair = vbdev_lvol_store_first(); pair != NULL; pair = vbdev_lvol_store_next(pair)) {
		if (is_usable(pair) && strcmp(pair->lvs->name, name) == 0) {
			return pair->lvs;
		}
	}
	return NULL;
}

static struct lvol_store_bdev *
find_on(const struct spdk_bdev *base)
{
	struct lvol_store_bdev *pair;

	for (pair = vbdev_lvol_store_first(); pair != NULL; pair = vbdev_lvol_store_next(pair)) {
		if (pair->bdev == base && is_usable(pair)) {
			return pair;
		}
	}
	return NULL;
}

static void
report(struct lvol_store_bdev *pair, cs_lvs_info_cb cb, void *arg)
{
	struct spdk_blob_store *store = pair->lvs->blobstore;
	struct cs_lvs_info info = {
		.name = pair->lvs->name,
		.base = spdk_bdev_get_name(pair->bdev),
		.cluster_size = spdk_bs_get_cluster_size(store),
		.block_size = spdk_bs_get_io_unit_size(store),
		.total_clusters = spdk_bs_total_data_cluster_count(store),
		.free_clusters = spdk_bs_free_cluster_count(store),
	};

	memcpy(info.uuid, &pair->lvs->uuid, sizeof(info.uuid));
	cb(arg, &info);
}

int
cs_lvs_info(const char *name, cs_lvs_info_cb cb, void *arg)
{
	struct spdk_lvol_store *lvs = cs_find_lvs(name);

	if (lvs == NULL) {
		return -ENODEV;
	}
	report(vbdev_get_lvs_bdev_by_lvs(lvs), cb, arg);
	return 0;
}

int
cs_lvs_on(const char *base, cs_lvs_info_cb cb, void *arg)
{
	struct spdk_bdev *bdev = spdk_bdev_get_by_name(base);
	struct lvol_store_bdev *pair = bdev == NULL ? NULL : find_on(bdev);

	if (pair == NULL) {
		return -ENODEV;
	}
	report(pair, cb, arg);
	return 0;
}

void
cs_lvs_list(cs_lvs_info_cb cb, void *arg)
{
	struct lvol_store_bdev *pair;

	for (pair = vbdev_lvol_store_first(); pair != NULL; pair = vbdev_lvol_store_next(pair)) {
		if (is_usable(pair)) {
			report(pair, cb, arg);
		}
	}
}

/* ------------------------------------------------------------------ create */

struct step {
	cs_done_cb cb;
	void *arg;
};

static struct step *
step_new(cs_done_cb cb, void *arg)
{
	struct step *step = calloc(1, sizeof(*step));

	if (step == NULL) {
		cb(arg, -ENOMEM);
		return NULL;
	}
	step->cb = cb;
	step->arg = arg;
	return step;
}

static void
step_done(void *context, int rc)
{
	struct step *step = context;

	step->cb(step->arg, rc);
	free(step);
}

static void
created(void *context, struct spdk_lvol_store *lvs, int rc)
{
	(void)lvs;
	step_done(context, rc);
}

static enum lvs_clear_method
lvs_clear_method(enum cs_clear clear)
{
	switch (clear) {
	case CS_CLEAR_NONE:
		return LVS_CLEAR_WITH_NONE;
	case CS_CLEAR_UNMAP:
		return LVS_CLEAR_WITH_UNMAP;
	default:
		return LVS_CLEAR_WITH_WRITE_ZEROES;
	}
}

void
cs_lvs_create(const char *base, const char *name, uint32_t cluster_size, enum cs_clear clear,
	      cs_done_cb cb, void *arg)
{
	struct spdk_bdev *bdev = spdk_bdev_get_by_name(base);
	struct step *step;
	int rc;

	if (bdev == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	/* SPDK formats first and claims afterwards, so a disk in use must be refused here. */
	if (cs_bdev_is_claimed(bdev) || cs_bdev_is_open(bdev)) {
		cb(arg, -EBUSY);
		return;
	}
	step = step_new(cb, arg);
	if (step == NULL) {
		return;
	}
#if CS_SPDK_SINCE(22, 9)
	rc = vbdev_lvs_create(spdk_bdev_get_name(bdev), name, cluster_size, lvs_clear_method(clear), 0,
			      created, step);
#else
	rc = vbdev_lvs_create(bdev, name, cluster_size, lvs_clear_method(clear), created, step);
#endif
	if (rc != 0) {
		step_done(step, rc);
	}
}

/* ------------------------------------------------------------------ load */

/* The first eight bytes of every blobstore, in every release. */
static const char g_signature[8] = "SPDKBLOB";

struct load {
	cs_done_cb cb;
	void *arg;
	struct spdk_bdev *base;
	struct spdk_bdev_desc *desc;
	struct spdk_io_channel *channel;
	struct spdk_poller *poller;
	void *buffer;
	/* Examinations that the lvol module had under way before ours. */
	uint32_t actions_before;
};

/* One at a time: the end of an examination is seen by the lvol module's count of them alone. */
static struct load *g_load;

static void
load_close(struct load *load)
{
	if (load->channel != NULL) {
		spdk_put_io_channel(load->channel);
		load->channel = NULL;
	}
	if (load->desc != NULL) {
		spdk_bdev_close(load->desc);
		load->desc = NULL;
	}
	spdk_dma_free(load->buffer);
	load->buffer = NULL;
}

static void
load_done(struct load *load, int rc)
{
	cs_done_cb cb = load->cb;
	void *arg = load->arg;

	load_close(load);
	free(load);
	g_load = NULL;
	cb(arg, rc);
}

static void
load_undone(void *context, int rc)
{
	(void)rc;
	load_done(context, -ENOMEM);
}

static int
load_poll(void *context)
{
	struct load *load = context;
	struct spdk_bdev_module *module = spdk_bdev_module_list_find("lvol");
	struct lvol_store_bdev *pair;

	if (module->internal.action_in_progress > load->actions_before) {
		return SPDK_POLLER_IDLE;
	}
	spdk_poller_unregister(&load->poller);
	pair = find_on(load->base);
	if (pair == NULL) {
		load_done(load, -EILSEQ);
		return SPDK_POLLER_BUSY;
	}
	if (cs_guard_loaded(pair->lvs) != 0) {
		vbdev_lvs_unload(pair->lvs, load_undone, load);
		return SPDK_POLLER_BUSY;
	}
	cs_guard_lvols(pair->lvs);
	load_done(load, 0);
	return SPDK_POLLER_BUSY;
}

/*
 * Has the lvol module look at this one bdev. Automatic examination is off, and a list of bdevs to
 * examine (which newer releases offer) would apply to later bdevs of the same name too, so the
 * module's own entry is called as the bdev layer calls it: counted before, counted down when done.
 */
static void
load_examine(struct load *load)
{
	struct spdk_bdev_module *module = spdk_bdev_module_list_find("lvol");

	if (module == NULL || module->examine_disk == NULL) {
		load_done(load, -ENOTSUP);
		return;
	}
#if CS_SPDK_SINCE(23, 5)
	spdk_spin_lock(&module->internal.spinlock);
	load->actions_before = module->internal.action_in_progress++;
	spdk_spin_unlock(&module->internal.spinlock);
#else
	load->actions_before = module->internal.action_in_progress++;
#endif
	load->poller = spdk_poller_register_named(load_poll, load, 500, "corriente_lvs_load");
	if (load->poller == NULL) {
		spdk_bdev_module_examine_done(module);
		load_done(load, -ENOMEM);
		return;
	}
	module->examine_disk(load->base);
}

static void
signature_read(struct spdk_bdev_io *io, bool success, void *context)
{
	struct load *load = context;
	bool found = success && memcmp(load->buffer, g_signature, sizeof(g_signature)) == 0;

	spdk_bdev_free_io(io);
	/* Closed before the examination, which opens the bdev itself. */
	load_close(load);
	if (!success) {
		load_done(load, -EIO);
	} else if (!found) {
		load_done(load, -ENOENT);
	} else {
		load_examine(load);
	}
}

static void
load_event(enum spdk_bdev_event_type type, struct spdk_bdev *bdev, void *context)
{
	/* A bdev removed meanwhile fails the read, which ends the load. */
	(void)type;
	(void)bdev;
	(void)context;
}

static int
read_signature(struct load *load)
{
	uint32_t block_size = spdk_bdev_get_block_size(load->base);
	int rc = spdk_bdev_open_ext(spdk_bdev_get_name(load->base), false, load_event, load, &load->desc);

	if (rc != 0) {
		return rc;
	}
	load->channel = spdk_bdev_get_io_channel(load->desc);
	load->buffer = spdk_dma_zmalloc(block_size, 4096, NULL);
	if (load->channel == NULL || load->buffer == NULL) {
		return -ENOMEM;
	}
	return spdk_bdev_read_blocks(load->desc, load->channel, load->buffer, 0, 1, signature_read, load);
}

void
cs_lvs_load(const char *base, cs_done_cb cb, void *arg)
{
	struct spdk_bdev *bdev = spdk_bdev_get_by_name(base);
	struct load *load;
	int rc;

	if (bdev == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	if (find_on(bdev) != NULL) {
		cb(arg, 0);
		return;
	}
	if (g_load != NULL || cs_bdev_is_claimed(bdev)) {
		cb(arg, -EBUSY);
		return;
	}
	load = calloc(1, sizeof(*load));
	if (load == NULL) {
		cb(arg, -ENOMEM);
		return;
	}
	load->cb = cb;
	load->arg = arg;
	load->base = bdev;
	g_load = load;
	rc = read_signature(load);
	if (rc != 0) {
		load_done(load, rc);
	}
}

/* ------------------------------------------------------------------ unload, destroy, rename */

/* SPDK would free a store under a change, or wait for the last close of an open lvol, whenever that is. */
static bool
in_use(struct spdk_lvol_store *lvs)
{
	struct spdk_lvol *lvol;

	if (cs_lvs_is_changing(lvs)) {
		return true;
	}
	TAILQ_FOREACH(lvol, &lvs->lvols, link) {
		if (cs_lvol_is_live(lvol) && lvol->bdev != NULL && cs_bdev_is_open(lvol->bdev)) {
			return true;
		}
	}
	return false;
}

struct unload {
	/* First, so that the whole is freed as the step is. */
	struct step step;
	struct spdk_lvol_store *lvs;
	/* Whose turn it is. */
	struct spdk_lvol *lvol;
	/* The device has left: what cannot be written is given up. */
	bool abandon;
};

static void
unload_done(void *context, int rc)
{
	g_unloading = NULL;
	step_done(context, rc);
}

static void unload_next(void *context, int rc);

/*
 * The lvol's metadata is on the disk, or cannot be. A close would try to write it again, and its failure is not to be had:
 * 20.07 frees the lvol then and lists it still, later releases leave it open for good.
 */
static void
unload_synced(void *context, int rc)
{
	struct unload *unload = context;
	struct spdk_lvol *lvol = unload->lvol;

	if (rc != 0 && !unload->abandon) {
		unload_done(&unload->step, rc);
		return;
	}
	if (rc != 0) {
		cs_lvol_drop_unwritten(lvol);
	}
	if (lvol->bdev == NULL) {
		spdk_lvol_close(lvol, unload_next, unload);
	} else {
		spdk_bdev_unregister(lvol->bdev, unload_next, unload);
	}
}

/*
 * Unregisters the lvols' bdevs one after another, then unloads. The module's own unload starts them all
 * at once and unloads in the callback of each that finds all of them closed, which may be twice.
 */
static void
unload_next(void *context, int rc)
{
	struct unload *unload = context;
	struct spdk_lvol *lvol;

	if (rc != 0) {
		unload_done(&unload->step, rc);
		return;
	}
	TAILQ_FOREACH(lvol, &unload->lvs->lvols, link) {
		if (!cs_lvol_is_live(lvol)) {
			continue;
		}
		unload->lvol = lvol;
		spdk_blob_sync_md(lvol->blob, unload_synced, unload);
		return;
	}
	vbdev_lvs_unload(unload->lvs, unload_done, &unload->step);
}

static void
unload(const char *name, bool abandon, cs_done_cb cb, void *arg)
{
	struct spdk_lvol_store *lvs = cs_find_lvs(name);
	struct unload *unload;

	if (lvs == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	if (g_unloading != NULL || in_use(lvs)) {
		cb(arg, -EBUSY);
		return;
	}
	unload = calloc(1, sizeof(*unload));
	if (unload == NULL) {
		cb(arg, -ENOMEM);
		return;
	}
	unload->step.cb = cb;
	unload->step.arg = arg;
	unload->lvs = lvs;
	unload->abandon = abandon;
	g_unloading = lvs;
	unload_next(unload, 0);
}

void
cs_lvs_unload(const char *name, cs_done_cb cb, void *arg)
{
	unload(name, false, cb, arg);
}

void
cs_lvs_abandon(const char *name, cs_done_cb cb, void *arg)
{
	unload(name, true, cb, arg);
}

void
cs_lvs_destroy(const char *name, cs_done_cb cb, void *arg)
{
	struct spdk_lvol_store *lvs = cs_find_lvs(name);
	struct step *step;

	if (lvs == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	if (in_use(lvs)) {
		cb(arg, -EBUSY);
		return;
	}
	step = step_new(cb, arg);
	if (step != NULL) {
		vbdev_lvs_destruct(lvs, step_done, step);
	}
}

void
cs_lvs_rename(const char *name, const char *new_name, cs_done_cb cb, void *arg)
{
	struct spdk_lvol_store *lvs = cs_find_lvs(name);
	struct step *step;

	if (lvs == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	step = step_new(cb, arg);
	if (step != NULL) {
		vbdev_lvs_rename(lvs, new_name, step_done, step);
	}
}
