/*
 * The shim's interface: all that Rust sees of SPDK, apart from the stable functions that
 * build.rs names one by one. Plain C types and opaque pointers only, so that bindgen meets
 * no structure of SPDK whose layout differs between releases.
 *
 * Conventions:
 * - A function that returns int answers 0 or a negative errno.
 * - A function that takes a callback and returns void always calls it exactly once, on the
 *   calling SPDK thread, possibly before it returns.
 * - A function that takes a callback and returns int calls it exactly once if it returned 0,
 *   and never otherwise.
 * - Control-plane functions must run on the application thread (the first one created).
 */
#ifndef CORRIENTE_SHIM_H
#define CORRIENTE_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct spdk_thread;
struct spdk_io_channel;
struct spdk_bdev;
struct spdk_bdev_desc;
struct spdk_bdev_io;

/* A step is over. */
typedef void (*cs_done_cb)(void *arg, int rc);

/* ------------------------------------------------------------------ env.c: process */

struct cs_capabilities {
	bool lvstore_grow;
	bool external_snapshot;
	bool set_parent;
	bool ana;
	bool tls;
	bool no_huge_option;
};

struct cs_env_config {
	const char *name;
	/* Reactor cores; the first is the calling thread's. */
	const uint32_t *cores;
	size_t core_count;
	/* Memory taken at start, in MiB; without hugepages also the limit. */
	uint32_t memory_mib;
	/* Run on ordinary pages. */
	bool no_huge;
	/* A hugetlbfs mount, or NULL for any. */
	const char *huge_dir;
	/* Leave PCI devices alone. */
	bool no_pci;
};

/* Severity: 0 error, 1 warning, 2 notice, 3 info, 4 debug. `message` lives for the call. */
typedef void (*cs_log_cb)(int severity, const char *file, int line, const char *message);

/* major * 10000 + minor * 100 + patch, e.g. 200700. */
uint32_t cs_version(void);
const char *cs_version_text(void);
void cs_capabilities(struct cs_capabilities *out);

void cs_log_hook(cs_log_cb callback);
/* 0 error to 4 debug. */
void cs_log_level(int severity);

/* Starts the environment on the calling thread, which becomes the first core's. */
int cs_env_start(const struct cs_env_config *config);
/* Runs `run` pinned on another core of the configuration. */
int cs_env_launch(uint32_t core, int (*run)(void *arg), void *arg);
void cs_env_wait_all(void);
void cs_env_stop(void);

/* ------------------------------------------------------------------ thread.c: threads */

/* Called for every SPDK thread made, from whichever thread made it; `core` is where it belongs. */
typedef int (*cs_thread_cb)(struct spdk_thread *thread, uint32_t core);

int cs_thread_lib_start(cs_thread_cb on_new_thread);
void cs_thread_lib_stop(void);
struct spdk_thread *cs_thread_new(const char *name, uint32_t core);

/* ------------------------------------------------------------------ subsystem.c: bring-up */

struct cs_subsystem_config {
	/* How many bdev_io structures there are for all threads, and how many each may keep. */
	uint32_t bdev_io_pool_size;
	uint32_t bdev_io_cache_size;
	/* Subsystems (exports) that the NVMe-oF target can hold. */
	uint32_t nvmf_max_subsystems;
};

int cs_subsystems_start(const struct cs_subsystem_config *config, cs_done_cb cb, void *arg);
void cs_subsystems_stop(cs_done_cb cb, void *arg);

/* ------------------------------------------------------------------ bdev.c: consumers */

enum cs_bdev_event {
	CS_BDEV_REMOVE = 0,
	CS_BDEV_RESIZE = 1,
	CS_BDEV_OTHER = 2,
};

enum cs_io_type {
	CS_IO_OTHER = 0,
	CS_IO_READ = 1,
	CS_IO_WRITE = 2,
	CS_IO_UNMAP = 3,
	CS_IO_FLUSH = 4,
	CS_IO_RESET = 5,
	CS_IO_WRITE_ZEROES = 6,
};

struct cs_bdev_info {
	/* Both live as long as the bdev does; copy them at once. */
	const char *name;
	const char *product;
	uint8_t uuid[16];
	uint32_t block_size;
	uint64_t block_count;
	uint32_t write_unit_blocks;
	uint32_t alignment;
	/* Bit (1 << enum cs_io_type) for each type supported. */
	uint32_t io_types;
	bool claimed;
};

typedef void (*cs_bdev_event_cb)(void *arg, enum cs_bdev_event event);
typedef void (*cs_name_cb)(void *arg, const char *name);
typedef void (*cs_bdev_info_cb)(void *arg, const struct cs_bdev_info *info);

/* The one receiver of the events of all descriptors; to be set before the first open. */
void cs_bdev_event_hook(cs_bdev_event_cb cb);
/* `arg` goes with each event of this descriptor, until it is closed. */
int cs_bdev_open(const char *name, bool write, void *arg, struct spdk_bdev_desc **out);
void cs_bdev_desc_info(struct spdk_bdev_desc *desc, struct cs_bdev_info *out);
/* -ENODEV when no bdev has this name or alias. */
int cs_bdev_info(const char *name, struct cs_bdev_info *out);
void cs_bdev_aliases(const char *name, cs_name_cb cb, void *arg);
void cs_bdev_list(cs_bdev_info_cb cb, void *arg);
/* Unregisters any bdev by name. */
void cs_bdev_delete(const char *name, cs_done_cb cb, void *arg);

/* Asks to be called when a bdev_io is free again; the entry is the shim's and is freed by it. */
int cs_bdev_wait_for_io(struct spdk_bdev_desc *desc, struct spdk_io_channel *channel,
			void (*cb)(void *arg), void *arg);
/* NVMe status of a finished I/O: code type in *sct, code in *sc. */
void cs_bdev_io_status(const struct spdk_bdev_io *io, int *sct, int *sc);
/* Sends an NVMe Flush as a raw command: bdev_nvme answers a plain flush without sending it. */
int cs_bdev_nvme_flush(struct spdk_bdev_desc *desc, struct spdk_io_channel *channel,
		       void (*cb)(struct spdk_bdev_io *io, bool success, void *arg), void *arg);

struct cs_bdev_stat {
	uint64_t bytes_read;
	uint64_t reads;
	uint64_t bytes_written;
	uint64_t writes;
	uint64_t bytes_unmapped;
	uint64_t unmaps;
	uint64_t read_ticks;
	uint64_t write_ticks;
};
typedef void (*cs_bdev_stat_cb)(void *arg, const struct cs_bdev_stat *stat, int rc);
void cs_bdev_stat(const char *name, cs_bdev_stat_cb cb, void *arg);

/* ------------------------------------------------------------------ vdev.c: bdevs made in Rust */

struct cs_vdev;

/* Bytes of context each I/O of a vdev carries. */
#define CS_VDEV_IO_CONTEXT 256

struct cs_vdev_ops {
	/* A channel's state, `channel_size` bytes, is to be made or dropped. */
	int (*channel_create)(void *device, void *channel);
	void (*channel_destroy)(void *device, void *channel);
	void (*submit)(void *device, void *channel, struct spdk_bdev_io *io);
	bool (*supports)(void *device, enum cs_io_type type);
	/* The bdev is gone, no channel is left; `device` may be freed. */
	void (*destruct)(void *device);
	uint32_t channel_size;
};

struct cs_vdev_config {
	const char *name;
	const char *product;
	uint8_t uuid[16];
	uint32_t block_size;
	uint64_t block_count;
};

int cs_vdev_create(const struct cs_vdev_config *config, const struct cs_vdev_ops *ops,
		   void *device, struct cs_vdev **out);
/* Calls back when destruct has run. */
void cs_vdev_destroy(struct cs_vdev *vdev, cs_done_cb cb, void *arg);
int cs_vdev_resize(struct cs_vdev *vdev, uint64_t block_count);
/* Calls `visit(channel state)` on the thread of each channel in turn, then `cb` on the caller's. */
void cs_vdev_for_each_channel(struct cs_vdev *vdev, void (*visit)(void *arg, void *channel),
			      void *arg, cs_done_cb cb);

enum cs_io_type cs_vio_type(const struct spdk_bdev_io *io);
uint64_t cs_vio_offset_blocks(const struct spdk_bdev_io *io);
uint64_t cs_vio_count_blocks(const struct spdk_bdev_io *io);
struct iovec *cs_vio_iovs(const struct spdk_bdev_io *io, int *count);
void *cs_vio_context(struct spdk_bdev_io *io);
/* True when a read brought no memory of its own. */
bool cs_vio_needs_buffer(const struct spdk_bdev_io *io);
/* Finds memory for a read, then calls `cb(io, success)`. */
void cs_vio_get_buffer(struct spdk_bdev_io *io,
		       void (*cb)(struct spdk_io_channel *channel, struct spdk_bdev_io *io, bool success));
void cs_vio_complete(struct spdk_bdev_io *io, bool success);
/* Completes with a generic NVMe status, see the NVMe specification. */
void cs_vio_complete_nvme(struct spdk_bdev_io *io, int sct, int sc);

#endif
