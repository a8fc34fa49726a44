/*
 * Disks: malloc, null and aio bdevs, and the error and delay bdevs that tests put over them.
 *
 * The headers below are private to SPDK's bdev modules: no release offers these functions in a public one.
 */
#include "internal.h"

#include "spdk/string.h"
#include "bdev/aio/bdev_aio.h"
#include "bdev/delay/vbdev_delay.h"
#include "bdev/error/vbdev_error.h"
#include "bdev/malloc/bdev_malloc.h"
#include "bdev/null/bdev_null.h"

static void
make_uuid(struct spdk_uuid *out, const uint8_t *uuid)
{
	if (uuid != NULL) {
		memcpy(out, uuid, sizeof(*out));
	} else {
		spdk_uuid_generate(out);
	}
}

int
cs_malloc_create(const char *name, const uint8_t *uuid, uint64_t block_count, uint32_t block_size)
{
	struct spdk_bdev *bdev = NULL;
	struct spdk_uuid own;

	make_uuid(&own, uuid);
	if (spdk_bdev_get_by_name(name) != NULL) {
		return -EEXIST;
	}
#if CS_SPDK_SINCE(23, 1)
	struct malloc_bdev_opts opts = {
		.name = (char *)name,
		.uuid = own,
		.num_blocks = block_count,
		.block_size = block_size,
#if CS_SPDK_SINCE(26, 1)
		.numa_id = SPDK_ENV_NUMA_ID_ANY,
#endif
	};

	return create_malloc_disk(&bdev, &opts);
#else
	return create_malloc_disk(&bdev, name, &own, block_count, block_size);
#endif
}

int
cs_null_create(const char *name, const uint8_t *uuid, uint64_t block_count, uint32_t block_size)
{
	struct spdk_bdev *bdev = NULL;
	struct spdk_uuid own;

	make_uuid(&own, uuid);
	if (spdk_bdev_get_by_name(name) != NULL) {
		return -EEXIST;
	}
#if CS_SPDK_SINCE(24, 9)
	struct null_bdev_opts opts = {
		.name = (char *)name,
		.uuid = own,
#else
	struct spdk_null_bdev_opts opts = {
		.name = name,
		.uuid = &own,
#endif
		.num_blocks = block_count,
		.block_size = block_size,
	};

	return bdev_null_create(&bdev, &opts);
}

int
cs_aio_create(const char *name, const char *path, uint32_t block_size, const uint8_t *uuid)
{
	if (spdk_bdev_get_by_name(name) != NULL) {
		return -EEXIST;
	}
#if CS_SPDK_SINCE(24, 9)
	struct spdk_uuid own;

	make_uuid(&own, uuid);
#if CS_SPDK_SINCE(26, 1)
	return create_aio_bdev(name, path, block_size, false, true, &own, false);
#else
	/* `falloc` makes unmap punch holes, which then read as zeroes. */
	return create_aio_bdev(name, path, block_size, false, true, &own);
#endif
#else
	(void)uuid;
	return create_aio_bdev(name, path, block_size);
#endif
}

int
cs_error_create(const char *base)
{
	if (spdk_bdev_get_by_name(base) == NULL) {
		return -ENODEV;
	}
#if CS_SPDK_SINCE(24, 9)
	return vbdev_error_create(base, NULL);
#else
	return vbdev_error_create(base);
#endif
}

/* 0xffffffff stands for any type in every release. */
#define ANY_IO_TYPE 0xffffffffu

int
cs_error_inject(const char *name, enum cs_io_type type, enum cs_error_kind kind, uint32_t count)
{
	uint32_t io_type = type == CS_IO_OTHER ? ANY_IO_TYPE : (uint32_t)cs_spdk_io_type(type);
	struct spdk_bdev *bdev = spdk_bdev_get_by_name(name);

	if (bdev == NULL || strcmp(bdev->module->name, "error") != 0) {
		return -ENODEV;
	}
	if (type == CS_IO_RESET || type == CS_IO_WRITE_ZEROES) {
		/* SPDK's table of faults ends before these, and it does not check. */
		return -EINVAL;
	}
	/* CS_ERROR_FAIL and CS_ERROR_HANG have SPDK's own numbers, the same in every release. */
#if CS_SPDK_SINCE(23, 1)
	struct vbdev_error_inject_opts opts = {
		.io_type = io_type,
		.error_type = count == 0 ? 0 : kind,
		.error_num = count,
	};

	return vbdev_error_inject_error((char *)name, &opts);
#else
	return vbdev_error_inject_error((char *)name, io_type, kind, count);
#endif
}

int
cs_delay_create(const char *base, const char *name, uint64_t read_us, uint64_t write_us)
{
	if (spdk_bdev_get_by_name(base) == NULL) {
		return -ENODEV;
	}
	if (spdk_bdev_get_by_name(name) != NULL) {
		return -EEXIST;
	}
#if CS_SPDK_SINCE(23, 5)
	return create_delay_disk(base, name, NULL, read_us, read_us, write_us, write_us);
#else
	return create_delay_disk(base, name, read_us, read_us, write_us, write_us);
#endif
}

int
cs_delay_set(const char *name, uint64_t read_us, uint64_t write_us)
{
	/* In SPDK's own order: average and 99th percentile of reads, then of writes. */
	const uint64_t latencies[] = { read_us, read_us, write_us, write_us };
	struct spdk_bdev *bdev = spdk_bdev_get_by_name(name);
	int rc = 0;

	if (bdev == NULL || strcmp(bdev->module->name, "delay") != 0) {
		return -ENODEV;
	}
	for (int type = 0; type < 4 && rc == 0; type++) {
		rc = vbdev_delay_update_latency_value((char *)name, latencies[type], type);
	}
	return rc;
}

void
cs_base_delete(const char *name, cs_done_cb cb, void *arg)
{
	struct spdk_bdev *bdev = spdk_bdev_get_by_name(name);
	const char *module;

	if (bdev == NULL) {
		cb(arg, -ENODEV);
		return;
	}
	if (cs_bdev_is_claimed(bdev) || cs_bdev_is_open(bdev)) {
		cb(arg, -EBUSY);
		return;
	}
	module = bdev->module->name;
#if CS_SPDK_SINCE(22, 5)
#define CS_DELETE(function) function(spdk_bdev_get_name(bdev), cb, arg)
#else
#define CS_DELETE(function) function(bdev, cb, arg)
#endif
	if (strcmp(module, "malloc") == 0) {
		CS_DELETE(delete_malloc_disk);
	} else if (strcmp(module, "null") == 0) {
		CS_DELETE(bdev_null_delete);
	} else if (strcmp(module, "aio") == 0) {
		CS_DELETE(bdev_aio_delete);
	} else if (strcmp(module, "error") == 0) {
		CS_DELETE(vbdev_error_delete);
	} else if (strcmp(module, "delay") == 0) {
		CS_DELETE(delete_delay_disk);
	} else {
		cb(arg, -ENOTSUP);
	}
#undef CS_DELETE
}
