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
	/* SPDK was built with its virtio drivers. */
	bool virtio;
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
/* The last severity that reaches the callback: -1 for none, 0 error to 4 debug. */
void cs_log_level(int severity);
/*
 * Lines of info and debug come only of parts whose flag is set. -ENOENT for an unknown one; "all" is every one. On the
 * application thread.
 */
int cs_log_flag_set(const char *name, bool enabled);
typedef void (*cs_log_flag_cb)(void *arg, const char *name, bool enabled);
/* In the order of their names. */
void cs_log_flags(cs_log_flag_cb cb, void *arg);

/* What DPDK's allocator holds, and what of it is free. */
struct cs_env_memory {
	uint64_t total_bytes;
	uint64_t free_bytes;
};
/* On any thread. */
void cs_env_memory(struct cs_env_memory *out);

/* Starts the environment on the calling thread, which becomes the first core's. */
int cs_env_start(const struct cs_env_config *config);
/* Runs `run` pinned on another core of the configuration. */
int cs_env_launch(uint32_t core, int (*run)(void *arg), void *arg);
void cs_env_wait_all(void);
/* The last call: no core runs any more. A process that ends without it leaves its memory to the kernel. */
void cs_env_stopped(void);

/* ------------------------------------------------------------------ thread.c: threads */

/* Called for every SPDK thread made, from whichever thread made it; `core` is where it belongs. */
typedef int (*cs_thread_cb)(struct spdk_thread *thread, uint32_t core);

int cs_thread_lib_start(cs_thread_cb on_new_thread);
void cs_thread_lib_stop(void);
struct spdk_thread *cs_thread_new(const char *name, uint32_t core);

/* ------------------------------------------------------------------ ticks.c: the bdev layer's clock */

/* The time-stamp counter as the bdev layer sees it on this OS thread until the next call; 0: as it is. */
void cs_bdev_ticks_set(uint64_t now);
uint64_t cs_bdev_ticks(void);

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
/* Calls back once SPDK itself has closed all bdevs that were registered before; newer releases open each to examine it. */
void cs_bdev_settle(cs_done_cb cb, void *arg);

/* Asks to be called when a bdev_io is free again; the entry is the shim's and is freed by it. */
int cs_bdev_wait_for_io(struct spdk_bdev_desc *desc, struct spdk_io_channel *channel,
			void (*cb)(void *arg), void *arg);
/* NVMe status of a finished I/O: code type in *sct, code in *sc. */
void cs_bdev_io_status(const struct spdk_bdev_io *io, int *sct, int *sc);
/* Sends an NVMe Flush as a raw command: bdev_nvme answers a plain flush without sending it. */
int cs_bdev_nvme_flush(struct spdk_bdev_desc *desc, struct spdk_io_channel *channel,
		       void (*cb)(struct spdk_bdev_io *io, bool success, void *arg), void *arg);

/*
 * Sends an NVMe admin command that reads `size` bytes into `buffer` (of spdk_dma_malloc), to a descriptor open for
 * writing: SPDK asks for that. -ENOTSUP when the bdev is not one of NVMe.
 */
int cs_bdev_nvme_admin_read(struct spdk_bdev_desc *desc, struct spdk_io_channel *channel, uint8_t opcode,
			    uint32_t namespace_id, uint32_t cdw10, void *buffer, size_t size,
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

/* An I/O as it arrives: in one structure, as each call across the languages costs as much as the look itself. */
struct cs_vio {
	struct spdk_bdev_io *io;
	/* CS_VDEV_IO_CONTEXT bytes that live as long as the I/O. */
	void *context;
	struct iovec *iovs;
	int iov_count;
	enum cs_io_type type;
	uint64_t offset_blocks;
	uint64_t block_count;
	/* A read that brought no memory of its own. */
	bool needs_buffer;
};

struct cs_vdev_ops {
	/* A channel's state, `channel_size` bytes, is to be made or dropped. */
	int (*channel_create)(void *device, void *channel);
	void (*channel_destroy)(void *device, void *channel);
	void (*submit)(void *device, void *channel, const struct cs_vio *vio);
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
/* As SPDK has it. */
const char *cs_vdev_name(const struct cs_vdev *vdev);
int cs_vdev_resize(struct cs_vdev *vdev, uint64_t block_count);
/* Calls `visit(channel state)` on the thread of each channel in turn, then `cb` on the caller's. */
void cs_vdev_for_each_channel(struct cs_vdev *vdev, void (*visit)(void *arg, void *channel),
			      void *arg, cs_done_cb cb);

struct iovec *cs_vio_iovs(const struct spdk_bdev_io *io, int *count);
void *cs_vio_context(struct spdk_bdev_io *io);
/* Finds memory for a read, then calls `cb(io, success)`. */
void cs_vio_get_buffer(struct spdk_bdev_io *io,
		       void (*cb)(struct spdk_io_channel *channel, struct spdk_bdev_io *io, bool success));
void cs_vio_complete(struct spdk_bdev_io *io, bool success);
/* Completes with a generic NVMe status, see the NVMe specification. */
void cs_vio_complete_nvme(struct spdk_bdev_io *io, int sct, int sc);

/* ------------------------------------------------------------------ basebdev.c: disks */

enum cs_error_kind {
	/* The I/O completes with an error. */
	CS_ERROR_FAIL = 1,
	/* The I/O never completes until the bdev is reset or deleted. */
	CS_ERROR_HANG = 2,
};

/* `uuid` is 16 bytes or NULL for a random one. */
int cs_malloc_create(const char *name, const uint8_t *uuid, uint64_t block_count, uint32_t block_size);
int cs_null_create(const char *name, const uint8_t *uuid, uint64_t block_count, uint32_t block_size);
/* A file or block device; its size must be a multiple of `block_size`. 20.07 ignores `uuid`. */
int cs_aio_create(const char *name, const char *path, uint32_t block_size, const uint8_t *uuid);
/* Puts the bdev "EE_<base>" over `base`. */
int cs_error_create(const char *base);
/*
 * The next `count` I/Os of `type` (CS_IO_OTHER: of any) end as `kind` says; 0 takes the fault away.
 * -EINVAL for resets and write-zeroes, which cannot be made to fail.
 */
int cs_error_inject(const char *name, enum cs_io_type type, enum cs_error_kind kind, uint32_t count);
/* Puts `name` over `base`; each latency is the average, its 99th percentile the same. */
int cs_delay_create(const char *base, const char *name, uint64_t read_us, uint64_t write_us);
int cs_delay_set(const char *name, uint64_t read_us, uint64_t write_us);
/*
 * Deletes any bdev of this section by the function of its own module. -EBUSY while it is open
 * or claimed, -ENOTSUP for a bdev of another kind.
 */
void cs_base_delete(const char *name, cs_done_cb cb, void *arg);

/* ------------------------------------------------------------------ lvs.c: lvol stores */

/* How clusters are made unreadable when they are given back. */
enum cs_clear {
	CS_CLEAR_NONE = 1,
	CS_CLEAR_UNMAP = 2,
	CS_CLEAR_WRITE_ZEROES = 3,
};

struct cs_lvs_info {
	/* Both live until the store is renamed or unloaded; copy them at once. */
	const char *name;
	const char *base;
	uint8_t uuid[16];
	uint32_t cluster_size;
	uint32_t block_size;
	uint64_t total_clusters;
	uint64_t free_clusters;
};
typedef void (*cs_lvs_info_cb)(void *arg, const struct cs_lvs_info *info);

/* Formats `base`. -EBUSY when it is claimed or open for writing. */
void cs_lvs_create(const char *base, const char *name, uint32_t cluster_size, enum cs_clear clear,
		   cs_done_cb cb, void *arg);
/*
 * Loads the store that `base` carries. Success also when it is loaded already. -ENOENT when the
 * first block has no blobstore's signature; -EILSEQ when it has, but the store did not load (it
 * is damaged, or a store of the same name is loaded). -EBUSY while another load runs.
 */
void cs_lvs_load(const char *base, cs_done_cb cb, void *arg);
/* Both: -EBUSY while one of its lvols is open or being changed, -ENODEV when there is none of this name. */
void cs_lvs_unload(const char *name, cs_done_cb cb, void *arg);
/* As cs_lvs_unload, of a store whose device has left the machine: what cannot be written any more is given up. */
void cs_lvs_abandon(const char *name, cs_done_cb cb, void *arg);
void cs_lvs_destroy(const char *name, cs_done_cb cb, void *arg);
void cs_lvs_rename(const char *name, const char *new_name, cs_done_cb cb, void *arg);
int cs_lvs_info(const char *name, cs_lvs_info_cb cb, void *arg);
/* The store on this base bdev. */
int cs_lvs_on(const char *base, cs_lvs_info_cb cb, void *arg);
void cs_lvs_list(cs_lvs_info_cb cb, void *arg);

/* ------------------------------------------------------------------ lvol.c: lvols */

struct cs_lvol_info {
	/* All live until the lvol is renamed or deleted; copy them at once. */
	const char *name;
	/* NULL for an lvol that could not be registered as a bdev. */
	const char *bdev;
	/* NULL for an lvol without parent. */
	const char *parent;
	uint8_t uuid[16];
	uint64_t size;
	uint64_t clusters;
	/* Clusters of its own, without its parents'. */
	uint64_t allocated_clusters;
	uint64_t children;
	bool thin;
	/* Neither its data nor its size can change: it was made by a snapshot. */
	bool read_only;
	/* Somebody has its bdev open: an export, a mirror, a copy. */
	bool open;
};
typedef void (*cs_lvol_info_cb)(void *arg, const struct cs_lvol_info *info);

struct cs_xattr {
	const char *name;
	/* NULL removes the xattr; removing one that is not there is no error. */
	const void *value;
	uint16_t length;
};

/*
 * An lvol is named by its store's name and its own. -ENODEV when there is none. Functions that
 * change it answer -EBUSY while another such operation on it, its parent or its child runs.
 */
int cs_lvol_info(const char *lvs, const char *lvol, cs_lvol_info_cb cb, void *arg);
int cs_lvol_list(const char *lvs, cs_lvol_info_cb cb, void *arg);
int cs_lvol_children(const char *lvs, const char *lvol, cs_name_cb cb, void *arg);
/* `bytes` is rounded up to clusters. */
void cs_lvol_create(const char *lvs, const char *lvol, uint64_t bytes, bool thin, enum cs_clear clear,
		    cs_done_cb cb, void *arg);
/* `lvol` goes on as a clone of the new read-only `snapshot`; it keeps its xattrs, the snapshot gets none. */
void cs_lvol_snapshot(const char *lvs, const char *lvol, const char *snapshot, cs_done_cb cb, void *arg);
/* -EINVAL unless `snapshot` is read-only. The clone gets the snapshot's clear method, and no xattrs. */
void cs_lvol_clone(const char *lvs, const char *snapshot, const char *clone, cs_done_cb cb, void *arg);
void cs_lvol_rename(const char *lvs, const char *lvol, const char *new_name, cs_done_cb cb, void *arg);
/* -EINVAL for a smaller size, -EPERM for a snapshot. */
void cs_lvol_grow(const char *lvs, const char *lvol, uint64_t bytes, cs_done_cb cb, void *arg);
/*
 * A snapshot with one child is merged into it; with more: -ENOTEMPTY. -EBUSY while it is open.
 */
void cs_lvol_delete(const char *lvs, const char *lvol, cs_done_cb cb, void *arg);
/* Copies all of its parents' clusters into it; it has no parent then and is thick. -EPERM for a snapshot. */
void cs_lvol_inflate(const char *lvs, const char *lvol, cs_done_cb cb, void *arg);
/* Copies its parent's own clusters into it; its grandparent is its parent then. -EPERM for a snapshot. */
void cs_lvol_decouple(const char *lvs, const char *lvol, cs_done_cb cb, void *arg);
/* Sets bit i of `bits` for each cluster i of its own; `size` is in bytes. -ENOSPC when that is too small. */
int cs_lvol_cluster_map(const char *lvs, const char *lvol, uint8_t *bits, size_t size);
/* Copies out. -ENOENT when it has none of this name, -ENOSPC when `size` is too small. */
int cs_lvol_xattr_get(const char *lvs, const char *lvol, const char *name, void *buffer, size_t size,
		      size_t *length);
int cs_lvol_xattr_names(const char *lvs, const char *lvol, cs_name_cb cb, void *arg);
/*
 * All of `items` in one write of the metadata, on a snapshot too. The names "name" and "uuid" are
 * the lvol module's own: -EINVAL. After an error the store holds either the old or the new values.
 */
void cs_lvol_xattr_apply(const char *lvs, const char *lvol, const struct cs_xattr *items, size_t count,
			 cs_done_cb cb, void *arg);

/* ------------------------------------------------------------------ nvme.c: initiator */

struct cs_nvme_options {
	/* Retries of a command by the driver; TCP has none. */
	uint32_t retry_count;
	/*
	 * How often the admin queue is polled. On 20.07 also how often it tries to reset a lost controller,
	 * each try connecting synchronously.
	 */
	uint64_t admin_poll_us;
	/* These only on newer releases: */
	uint32_t keep_alive_ms;
	uint32_t controller_loss_s;
	uint32_t reconnect_delay_s;
	uint32_t fast_io_fail_s;
};

struct cs_nvme_target {
	/* What the controller is to be called; its bdevs are "<name>n<nsid>". */
	const char *name;
	/* An IP address, or a PCI address when `pcie`. */
	const char *address;
	/* The next three are NULL when `pcie`. */
	const char *port;
	const char *subsystem_nqn;
	const char *host_nqn;
	bool pcie;
	bool ipv6;
};

/* `names` live for the call. */
typedef void (*cs_nvme_attach_cb)(void *arg, const char *const *names, size_t count, int rc);

enum cs_fault_attach {
	CS_FAULT_ATTACH_NONE = 0,
	/* The next attach answers no bdev. */
	CS_FAULT_ATTACH_NO_NAME = 1,
	/* ... its bdev and a second one. */
	CS_FAULT_ATTACH_TWO_NAMES = 2,
	/* ... an empty name. */
	CS_FAULT_ATTACH_EMPTY_NAME = 3,
};

/* Before the first attach. SPDK's own I/O timeout stays off: it can block a whole reactor. */
int cs_nvme_configure(const struct cs_nvme_options *options);
/*
 * Connects and makes the namespaces bdevs. -ETIMEDOUT after `timeout_ms`; should it come to be after all,
 * it is detached again at once. The connect itself blocks the calling thread on 20.07.
 */
void cs_nvme_attach(const struct cs_nvme_target *target, uint32_t timeout_ms, cs_nvme_attach_cb cb,
		    void *arg);
/*
 * Takes the controller and its bdevs away and calls back when both are gone; users of the bdevs get an
 * event and must close them, or it ends with -ETIMEDOUT, and goes on. -ENODEV when there is none.
 * With `peer_lost` nothing more is sent to it: all I/O in flight fails at once, on every thread. Without,
 * a peer that does not answer blocks the calling thread on 20.07.
 */
void cs_nvme_detach(const char *name, bool peer_lost, uint32_t timeout_ms, cs_done_cb cb, void *arg);
bool cs_nvme_is_attached(const char *name);
/*
 * The device of a PCIe controller has left the machine: its I/O fails, what is in flight within an admin poll, and
 * nothing is asked of it any more, also not by the detach, which is to follow. An unknown controller is passed over.
 */
void cs_nvme_unplugged(const char *name);
/*
 * Asks the peer for the size of the one namespace and gives its bdev that size, so that the bdev's users get an
 * event if it has grown. Calls back when the peer has answered, or the controller goes. -ENODEV when there is no
 * such controller or bdev. A namespace over TCP is resized by nothing else.
 */
void cs_nvme_read_size(const char *name, const char *bdev, cs_done_cb cb, void *arg);
/* For tests: spoils the answer of the next successful attach. */
void cs_fault_attach(enum cs_fault_attach fault);

/* ------------------------------------------------------------------ virtio.c: virtio disks of this machine */

enum cs_virtio_kind {
	CS_VIRTIO_BLK = 0,
	CS_VIRTIO_SCSI = 1,
};

/*
 * Drives a PCI function that is bound to a user-space driver. A blk device becomes the bdev `name`, a scsi
 * one a bdev "<name>t<target>" for each of its targets. -ETIMEDOUT when its targets do not answer within
 * `timeout_ms`; should they later, it is let go of again. -ENOTSUP without virtio drivers, -EPERM without an IOMMU.
 */
void cs_virtio_attach(const char *name, const char *pci_address, enum cs_virtio_kind kind,
		      uint32_t timeout_ms, cs_nvme_attach_cb cb, void *arg);
/* Lets go of the device with its bdevs. -EBUSY while one of them is open or claimed, -ENODEV when there is none. */
void cs_virtio_detach(const char *name, enum cs_virtio_kind kind, cs_done_cb cb, void *arg);

/* ------------------------------------------------------------------ nvmf.c: target */

struct cs_nvmf_transport {
	uint32_t max_queue_depth;
	uint32_t max_queues;
	uint32_t in_capsule_bytes;
	uint32_t max_io_bytes;
	/* Data buffers: size, how many in all (20.07), how many each thread keeps. */
	uint32_t io_unit_bytes;
	uint32_t shared_buffers;
	uint32_t buffer_cache;
};

struct cs_nvmf_subsystem {
	const char *nqn;
	const char *serial;
	const char *model;
	bool any_host;
	/* These only on newer releases: */
	uint16_t min_cntlid;
	uint16_t max_cntlid;
	bool ana;
};

struct cs_nvmf_listener {
	const char *address;
	const char *port;
	bool ipv6;
};

enum cs_nvmf_change {
	CS_NVMF_START = 0,
	CS_NVMF_STOP = 1,
	CS_NVMF_PAUSE = 2,
	CS_NVMF_RESUME = 3,
};

enum cs_nvmf_state {
	CS_NVMF_INACTIVE = 0,
	CS_NVMF_ACTIVE = 1,
	CS_NVMF_PAUSED = 2,
	CS_NVMF_CHANGING = 3,
};

struct cs_nvmf_info {
	/* All live for the call. `bdev`, `address` and `port` are NULL when there is none. */
	const char *nqn;
	const char *bdev;
	const char *address;
	const char *port;
	enum cs_nvmf_state state;
	/* Controllers, i.e. connections of hosts. */
	uint32_t connected;
};
typedef void (*cs_nvmf_info_cb)(void *arg, const struct cs_nvmf_info *info);

/* Once, before the first listener. Success also when it is there already. */
void cs_nvmf_start_tcp(const struct cs_nvmf_transport *transport, cs_done_cb cb, void *arg);
/* Makes an inactive subsystem for one namespace. -EEXIST, or -ENOSPC when there are too many. */
int cs_nvmf_create(const struct cs_nvmf_subsystem *subsystem);
/* Of an inactive subsystem; waits until its hosts' controllers are gone. */
void cs_nvmf_destroy(const char *nqn, uint32_t timeout_ms, cs_done_cb cb, void *arg);
/*
 * Of an inactive or paused subsystem, else -EAGAIN. The bdev becomes namespace 1 and is claimed: -EPERM
 * when it is already.
 */
int cs_nvmf_add_namespace(const char *nqn, const char *bdev, const uint8_t *nguid, const uint8_t *uuid);
int cs_nvmf_remove_namespace(const char *nqn);
int cs_nvmf_allow_host(const char *nqn, const char *host_nqn);
int cs_nvmf_refuse_host(const char *nqn, const char *host_nqn);
/* Of an inactive or paused subsystem. */
void cs_nvmf_listen(const char *nqn, const struct cs_nvmf_listener *listener, cs_done_cb cb, void *arg);
int cs_nvmf_unlisten(const char *nqn, const struct cs_nvmf_listener *listener);
enum cs_nvmf_ana {
	CS_NVMF_ANA_OPTIMIZED = 0,
	CS_NVMF_ANA_NON_OPTIMIZED = 1,
	CS_NVMF_ANA_INACCESSIBLE = 2,
};
/* Of all namespaces at a listener; hosts are told. Of an inactive or paused subsystem. -ENOTSUP on 20.07. */
void cs_nvmf_set_ana(const char *nqn, const struct cs_nvmf_listener *listener, enum cs_nvmf_ana ana,
		     cs_done_cb cb, void *arg);
/*
 * Success at once when the subsystem is in the state asked for. While SPDK changes the state by itself (it
 * pauses a subsystem whose namespace is resized), waits for its turn, up to `timeout_ms`, then -EBUSY.
 * A change waits for the I/O in flight. -ETIMEDOUT when it has begun and is not over by then: it goes
 * on, but a pause ends in a resume.
 */
void cs_nvmf_change(const char *nqn, enum cs_nvmf_change change, uint32_t timeout_ms, cs_done_cb cb,
		    void *arg);
/* -ENODEV when there is none. */
int cs_nvmf_info(const char *nqn, cs_nvmf_info_cb cb, void *arg);
/* All but the discovery subsystem. */
void cs_nvmf_list(cs_nvmf_info_cb cb, void *arg);

#endif
