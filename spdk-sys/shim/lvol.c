/*
 * Lvols: create, snapshot, clone, grow, merge, describe; their cluster maps and xattrs.
 *
 * `blob/blobstore.h` is private to SPDK's blobstore, and this file and lvol_guard.c are the only ones to
 * use it. It is needed for three things that no public header of any release offers: which clusters are
 * a blob's own, xattrs on a snapshot, and the clear method of a clone. Of the private structure only
 * `active.clusters`, `active.num_clusters`, `md_ro`, `md_ro_flags`, `clear_method`, `state` and
 * `locked_operation_in_progress` are touched here; they have had one meaning since 20.07.
 */
#include "lvs.h"

#include "spdk/blob.h"
#include "blob/blobstore.h"

SPDK_STATIC_ASSERT(sizeof(*((struct spdk_blob *)0)->active.clusters) == sizeof(uint64_t),
		   "a cluster map is an array of 64-bit addresses");

struct spdk_lvol *
cs_find_lvol(const char *lvs, const char *name)
{
	struct spdk_lvol_store *store = cs_find_lvs(lvs);
	struct spdk_lvol *lvol;

	if (store == NULL) {
		return NULL;
	}
	TAILQ_FOREACH(lvol, &store->lvols, link) {
		if (cs_lvol_is_live(lvol) && strcmp(lvol->name, name) == 0) {
			return lvol;
		}
	}
	return NULL;
}

static struct spdk_lvol *
find_blob(struct spdk_lvol_store *store, spdk_blob_id id)
{
	struct spdk_lvol *lvol;

	TAILQ_FOREACH(lvol, &store->lvols, link) {
		if (lvol->blob_id == id && cs_lvol_is_live(lvol)) {
			return lvol;
		}
	}
	return NULL;
}

static struct spdk_lvol *
find_parent(struct spdk_lvol *lvol)
{
	spdk_blob_id id = spdk_blob_get_parent_snapshot(lvol->lvol_store->blobstore, lvol->blob_id);

	return id == SPDK_BLOBID_INVALID ? NULL : find_blob(lvol->lvol_store, id);
}

static size_t
child_count(struct spdk_lvol *lvol)
{
	size_t count = 0;

	/* Answers -ENOMEM, and the count, when there are any. */
	spdk_blob_get_clones(lvol->lvol_store->blobstore, lvol->blob_id, NULL, &count);
	return count;
}

/* ------------------------------------------------------------------ describe */

static uint64_t
own_clusters(const struct spdk_blob *blob)
{
	uint64_t count = 0;

	for (uint64_t i = 0; i < blob->active.num_clusters; i++) {
		count += blob->active.clusters[i] != 0;
	}
	return count;
}

static void
report(struct spdk_lvol *lvol, cs_lvol_info_cb cb, void *arg)
{
	struct spdk_lvol *parent = find_parent(lvol);
	uint64_t clusters = spdk_blob_get_num_clusters(lvol->blob);
	struct cs_lvol_info info = {
		.name = lvol->name,
		.bdev = lvol->bdev == NULL ? NULL : spdk_bdev_get_name(lvol->bdev),
		.parent = parent == NULL ? NULL : parent->name,
		.size = clusters * spdk_bs_get_cluster_size(lvol->lvol_store->blobstore),
		.clusters = clusters,
		.allocated_clusters = own_clusters(lvol->blob),
		.children = child_count(lvol),
		.thin = spdk_blob_is_thin_provisioned(lvol->blob),
		.read_only = spdk_blob_is_read_only(lvol->blob),
		.open = lvol->bdev != NULL && cs_bdev_is_open(lvol->bdev),
	};

	memcpy(info.uuid, &lvol->uuid, sizeof(info.uuid));
	cb(arg, &info);
}

int
cs_lvol_info(const char *lvs, const char *lvol, cs_lvol_info_cb cb, void *arg)
{
	struct spdk_lvol *found = cs_find_lvol(lvs, lvol);

	if (found == NULL) {
		return -ENODEV;
	}
	report(found, cb, arg);
	return 0;
}

int
cs_lvol_list(const char *lvs, cs_lvol_info_cb cb, void *arg)
{
	struct spdk_lvol_store *store = cs_find_lvs(lvs);
	struct spdk_lvol *lvol;

	if (store == NULL) {
		return -ENODEV;
	}
	TAILQ_FOREACH(lvol, &store->lvols, link) {
		if (cs_lvol_is_live(lvol)) {
			report(lvol, cb, arg);
		}
	}
	return 0;
}

int
cs_lvol_children(const char *lvs, const char *lvol, cs_name_cb cb, void *arg)
{
	struct spdk_lvol *found = cs_find_lvol(lvs, lvol);
	struct spdk_lvol *child;
	spdk_blob_id *ids;
	size_t count;
	int rc = 0;

	if (found == NULL) {
		return -ENODEV;
	}
	count = child_count(found);
	if (count == 0) {
		return 0;
	}
	ids = calloc(count, sizeof(*ids));
	if (ids == NULL) {
		return -ENOMEM;
	}
	rc = spdk_blob_get_clones(found->lvol_store->blobstore, found->blob_id, ids, &count);
	for (size_t i = 0; rc == 0 && i < count; i++) {
		child = find_blob(found->lvol_store, ids[i]);
		if (child != NULL) {
			cb(arg, child->name);
		}
	}
	free(ids);
	return rc;
}

int
cs_lvol_cluster_map(const char *lvs, const char *lvol, uint8_t *bits, size_t size)
{
	struct spdk_lvol *found = cs_find_lvol(lvs, lvol);
	const struct spdk_blob *blob;

	if (found == NULL) {
		return -ENODEV;
	}
	blob = found->blob;
	if (blob->active.num_clusters > size * 8) {
		return -ENOSPC;
	}
	memset(bits, 0, size);
	/* Clusters are only entered on this thread, so the map stands still meanwhile. */
	for (uint64_t i = 0; i < blob->active.num_clusters; i++) {
		if (blob->active.clusters[i] != 0) {
			bits[i / 8] |= 1u << (i % 8);
		}
	}
	return 0;
}

/* ------------------------------------------------------------------ changes, one at a time */

/*
 * A change under way. The blobstore refuses a second change of a blob with -EBUSY, but the lvol module
 * notices that too late: a delete has closed the lvol by then, and it is lost from the list though not
 * from the disk; a rename has changed the alias. So whatever a change touches is looked up here first.
 */
struct change {
	TAILQ_ENTRY(change) link;
	struct spdk_lvol_store *store;
	/* The lvol and its parent or, for a delete, its child; none for a creation. */
	spdk_blob_id blobs[2];
	/* What a clone's data is to be cleared with. */
	enum blob_clear_method clear;
	cs_done_cb cb;
	void *arg;
};

static TAILQ_HEAD(, change) g_changes = TAILQ_HEAD_INITIALIZER(g_changes);

static bool
is_changing(const struct spdk_lvol_store *store, spdk_blob_id blob)
{
	struct change *change;

	TAILQ_FOREACH(change, &g_changes, link) {
		if (change->store == store && (change->blobs[0] == blob || change->blobs[1] == blob)) {
			return true;
		}
	}
	return false;
}

static bool
is_busy(struct spdk_lvol *lvol)
{
	return lvol == NULL || lvol->action_in_progress || lvol->blob->locked_operation_in_progress ||
	       is_changing(lvol->lvol_store, lvol->blob_id);
}

bool
cs_lvs_is_changing(const struct spdk_lvol_store *store)
{
	struct change *change;

	TAILQ_FOREACH(change, &g_changes, link) {
		if (change->store == store) {
			return true;
		}
	}
	return false;
}

void
cs_lvol_drop_unwritten(struct spdk_lvol *lvol)
{
	lvol->blob->state = SPDK_BLOB_STATE_CLEAN;
}

/* NULL after having called back with an error. */
static struct change *
change_new(struct spdk_lvol_store *store, cs_done_cb cb, void *arg)
{
	struct change *change = calloc(1, sizeof(*change));

	if (change == NULL) {
		cb(arg, -ENOMEM);
		return NULL;
	}
	change->store = store;
	change->blobs[0] = SPDK_BLOBID_INVALID;
	change->blobs[1] = SPDK_BLOBID_INVALID;
	change->cb = cb;
	change->arg = arg;
	TAILQ_INSERT_TAIL(&g_changes, change, link);
	return change;
}

/* NULL after having called back with an error. `other` may be NULL. */
static struct change *
change_begin(struct spdk_lvol *lvol, struct spdk_lvol *other, cs_done_cb cb, void *arg)
{
	struct change *change;

	if (is_busy(lvol) || (other != NULL && is_busy(other))) {
		cb(arg, -EBUSY);
		return NULL;
	}
	change = change_new(lvol->lvol_store, cb, arg);
	if (change != NULL) {
		change->blobs[0] = lvol->blob_id;
		change->blobs[1] = other == NULL ? SPDK_BLOBID_INVALID : other->blob_id;
	}
	return change;
}

static void
change_done(void *context, int rc)
{
	struct change *change = context;

	TAILQ_REMOVE(&g_changes, change, link);
	change->cb(change->arg, rc);
	free(change);
}

/* As change_done, for changes that made new relations between blobs. */
static void
change_guard_done(void *context, int rc)
{
	struct change *change = context;

	cs_guard_lvols(change->store);
	change_done(change, rc);
}

/* ------------------------------------------------------------------ create, snapshot, clone */

static void
made(void *context, struct spdk_lvol *lvol, int rc)
{
	(void)lvol;
	change_guard_done(context, rc);
}

static enum lvol_clear_method
lvol_clear_method(enum cs_clear clear)
{
	switch (clear) {
	case CS_CLEAR_NONE:
		return LVOL_CLEAR_WITH_NONE;
	case CS_CLEAR_UNMAP:
		return LVOL_CLEAR_WITH_UNMAP;
	default:
		return LVOL_CLEAR_WITH_WRITE_ZEROES;
	}
}

void
cs_lvol_create(const char *lvs, const char *lvol, uint64_t bytes, bool thin, enum cs_clear clear,
	       cs_done_cb cb, void *arg)
{
	struct spdk_lvol_store *store = cs_find_lvs(lvs);
	struct change *change;
	int rc;

	if (store == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	change = change_new(store, cb, arg);
	if (change == NULL) {
		return;
	}
	rc = vbdev_lvol_create(store, lvol, bytes, thin, lvol_clear_method(clear), made, change);
	if (rc != 0) {
		change_done(change, rc);
	}
}

void
cs_lvol_snapshot(const char *lvs, const char *lvol, const char *snapshot, cs_done_cb cb, void *arg)
{
	struct spdk_lvol *origin = cs_find_lvol(lvs, lvol);
	struct change *change;

	if (origin == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	if (spdk_blob_is_read_only(origin->blob)) {
		cb(arg, -EPERM);
		return;
	}
	/* Its parent gets another child, so it must not be under deletion. */
	change = change_begin(origin, find_parent(origin), cb, arg);
	if (change != NULL) {
		vbdev_lvol_create_snapshot(origin, snapshot, made, change);
	}
}

static void
clone_made(void *context, struct spdk_lvol *lvol, int rc)
{
	struct change *change = context;
	struct spdk_blob *blob;

	if (rc != 0) {
		change_guard_done(change, rc);
		return;
	}
	blob = lvol->blob;
	if (blob->clear_method == change->clear) {
		change_guard_done(change, 0);
		return;
	}
	/*
	 * The blobstore gives a snapshot the clear method of its origin, but a clone the default one. A volume
	 * that was reverted would give its clusters back unzeroed, for the next volume to read. This is
	 * what the blobstore itself does when it sets the method of a new blob.
	 */
	blob->clear_method = change->clear;
	blob->md_ro_flags &= ~SPDK_BLOB_CLEAR_METHOD;
	blob->md_ro_flags |= (uint64_t)change->clear << SPDK_BLOB_CLEAR_METHOD_SHIFT;
	blob->state = SPDK_BLOB_STATE_DIRTY;
	spdk_blob_sync_md(blob, change_guard_done, change);
}

void
cs_lvol_clone(const char *lvs, const char *snapshot, const char *clone, cs_done_cb cb, void *arg)
{
	struct spdk_lvol *origin = cs_find_lvol(lvs, snapshot);
	struct change *change;

	if (origin == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	if (!spdk_blob_is_read_only(origin->blob)) {
		cb(arg, -EINVAL);
		return;
	}
	change = change_begin(origin, NULL, cb, arg);
	if (change != NULL) {
		change->clear = origin->blob->clear_method;
		vbdev_lvol_create_clone(origin, clone, clone_made, change);
	}
}

/* ------------------------------------------------------------------ rename, grow, delete */

void
cs_lvol_rename(const char *lvs, const char *lvol, const char *new_name, cs_done_cb cb, void *arg)
{
	struct spdk_lvol *found = cs_find_lvol(lvs, lvol);
	struct change *change;
	bool read_only;

	if (found == NULL || found->bdev == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	if (strcmp(lvol, new_name) == 0) {
		cb(arg, 0);
		return;
	}
	/* The module changes the alias before it looks for a clash. */
	if (cs_find_lvol(lvs, new_name) != NULL) {
		cb(arg, -EEXIST);
		return;
	}
	change = change_begin(found, NULL, cb, arg);
	if (change == NULL) {
		return;
	}
	/* See cs_lvol_xattr_apply: the name is an xattr too. */
	read_only = found->blob->md_ro;
	found->blob->md_ro = false;
	vbdev_lvol_rename(found, new_name, change_done, change);
	found->blob->md_ro = read_only;
}

void
cs_lvol_grow(const char *lvs, const char *lvol, uint64_t bytes, cs_done_cb cb, void *arg)
{
	struct spdk_lvol *found = cs_find_lvol(lvs, lvol);
	struct change *change;
	uint64_t size;

	if (found == NULL || found->bdev == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	if (spdk_blob_is_read_only(found->blob)) {
		cb(arg, -EPERM);
		return;
	}
	size = spdk_blob_get_num_clusters(found->blob) *
	       spdk_bs_get_cluster_size(found->lvol_store->blobstore);
	if (bytes < size) {
		/* SPDK would cut the data off and then find that an open bdev cannot shrink. */
		cb(arg, -EINVAL);
		return;
	}
	change = change_begin(found, NULL, cb, arg);
	if (change != NULL) {
		vbdev_lvol_resize(found, bytes, change_guard_done, change);
	}
}

void
cs_lvol_delete(const char *lvs, const char *lvol, cs_done_cb cb, void *arg)
{
	struct spdk_lvol *found = cs_find_lvol(lvs, lvol);
	struct spdk_lvol *child = NULL;
	struct change *change;
	spdk_blob_id child_id;
	size_t count;

	if (found == NULL || found->bdev == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	count = child_count(found);
	if (count > 1) {
		cb(arg, -ENOTEMPTY);
		return;
	}
	if (count == 1) {
		if (spdk_blob_get_clones(found->lvol_store->blobstore, found->blob_id, &child_id,
					 &count) == 0) {
			child = find_blob(found->lvol_store, child_id);
		}
		if (child == NULL) {
			cb(arg, -EBUSY);
			return;
		}
	}
	/* Unregistering an open bdev would wait for its last close, whenever that is. */
	if (cs_bdev_is_open(found->bdev)) {
		cb(arg, -EBUSY);
		return;
	}
	change = change_begin(found, child, cb, arg);
	if (change != NULL) {
		vbdev_lvol_destroy(found, change_guard_done, change);
	}
}

/* Starts a copy from the parents, in place. */
static void
copy_parents(const char *lvs, const char *lvol, bool all, cs_done_cb cb, void *arg)
{
	struct spdk_lvol *found = cs_find_lvol(lvs, lvol);
	struct change *change;

	if (found == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	if (spdk_blob_is_read_only(found->blob)) {
		cb(arg, -EPERM);
		return;
	}
	change = change_begin(found, find_parent(found), cb, arg);
	if (change == NULL) {
		return;
	}
	if (all) {
		spdk_lvol_inflate(found, change_guard_done, change);
	} else {
		spdk_lvol_decouple_parent(found, change_guard_done, change);
	}
}

void
cs_lvol_inflate(const char *lvs, const char *lvol, cs_done_cb cb, void *arg)
{
	copy_parents(lvs, lvol, true, cb, arg);
}

void
cs_lvol_decouple(const char *lvs, const char *lvol, cs_done_cb cb, void *arg)
{
	copy_parents(lvs, lvol, false, cb, arg);
}

/* ------------------------------------------------------------------ xattrs */

int
cs_lvol_xattr_get(const char *lvs, const char *lvol, const char *name, void *buffer, size_t size,
		  size_t *length)
{
	struct spdk_lvol *found = cs_find_lvol(lvs, lvol);
	const void *value;
	size_t value_length;
	int rc;

	if (found == NULL) {
		return -ENODEV;
	}
	rc = spdk_blob_get_xattr_value(found->blob, name, &value, &value_length);
	if (rc != 0) {
		return rc;
	}
	if (value_length > size) {
		return -ENOSPC;
	}
	memcpy(buffer, value, value_length);
	*length = value_length;
	return 0;
}

int
cs_lvol_xattr_names(const char *lvs, const char *lvol, cs_name_cb cb, void *arg)
{
	struct spdk_lvol *found = cs_find_lvol(lvs, lvol);
	struct spdk_xattr_names *names;
	int rc;

	if (found == NULL) {
		return -ENODEV;
	}
	rc = spdk_blob_get_xattr_names(found->blob, &names);
	if (rc != 0) {
		return rc;
	}
	for (uint32_t i = 0; i < spdk_xattr_names_get_count(names); i++) {
		cb(arg, spdk_xattr_names_get_name(names, i));
	}
	spdk_xattr_names_free(names);
	return 0;
}

static bool
is_own_xattr(const char *name)
{
	return strcmp(name, "name") == 0 || strcmp(name, "uuid") == 0;
}

static int
set_xattrs(struct spdk_blob *blob, const struct cs_xattr *items, size_t count)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < count; i++) {
		if (items[i].value != NULL) {
			rc = spdk_blob_set_xattr(blob, items[i].name, items[i].value, items[i].length);
		} else {
			rc = spdk_blob_remove_xattr(blob, items[i].name);
			if (rc == -ENOENT) {
				rc = 0;
			}
		}
	}
	return rc;
}

void
cs_lvol_xattr_apply(const char *lvs, const char *lvol, const struct cs_xattr *items, size_t count,
		    cs_done_cb cb, void *arg)
{
	struct spdk_lvol *found = cs_find_lvol(lvs, lvol);
	struct spdk_blob *blob;
	bool read_only;
	int rc;

	if (found == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	for (size_t i = 0; i < count; i++) {
		if (is_own_xattr(items[i].name)) {
			cb(arg, -EINVAL);
			return;
		}
	}
	if (is_busy(found)) {
		cb(arg, -EBUSY);
		return;
	}
	/*
	 * A snapshot's metadata is read-only to keep its size and cluster map; its xattrs are ours. The flag is
	 * looked at when an xattr is changed and when a write of the metadata is started, and nowhere later.
	 * Both happen within these lines, which give no other code of this thread, the only one that
	 * changes metadata, a chance to run. The flag on disk is another one and is not touched.
	 */
	blob = found->blob;
	read_only = blob->md_ro;
	blob->md_ro = false;
	rc = set_xattrs(blob, items, count);
	if (rc == 0) {
		spdk_blob_sync_md(blob, cb, arg);
	}
	blob->md_ro = read_only;
	if (rc != 0) {
		cb(arg, rc);
	}
}
