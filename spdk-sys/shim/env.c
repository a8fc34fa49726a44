/*
 * Process start: DPDK's environment with or without hugepages, its memory, the log, the version.
 *
 * `spdk_internal/log.h` (20.07) is internal: the walk over the log flags moved to the public `spdk/log.h` in 20.10.
 */
#include "internal.h"

#if !CS_SPDK_SINCE(20, 10)
#include "spdk_internal/log.h"
#endif

#include <stdatomic.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_malloc.h>

#define CS_MAX_ARGUMENTS 24

uint32_t
cs_version(void)
{
	return SPDK_VERSION_MAJOR * 10000 + SPDK_VERSION_MINOR * 100 + SPDK_VERSION_PATCH;
}

const char *
cs_version_text(void)
{
	return SPDK_VERSION_STRING;
}

void
cs_capabilities(struct cs_capabilities *out)
{
	memset(out, 0, sizeof(*out));
#if CS_SPDK_SINCE(24, 1)
	out->lvstore_grow = true;
	out->external_snapshot = true;
	out->ana = true;
	out->no_huge_option = true;
#endif
#if CS_SPDK_SINCE(24, 9)
	out->set_parent = true;
	out->tls = true;
#endif
#ifdef CS_HAVE_VIRTIO
	out->virtio = true;
#endif
}

static cs_log_cb g_log_cb;

static void
log_message(int level, const char *file, const int line, const char *func, const char *format,
	    va_list args)
{
	char message[1024];
	int severity;
	size_t length;

	(void)func;
	/* With a function of its own SPDK leaves the threshold to that. */
	if (level > (int)spdk_log_get_print_level()) {
		return;
	}
	vsnprintf(message, sizeof(message), format, args);
	length = strlen(message);
	while (length > 0 && (message[length - 1] == '\n' || message[length - 1] == '\r')) {
		message[--length] = '\0';
	}
	switch (level) {
	case SPDK_LOG_ERROR:
		severity = 0;
		break;
	case SPDK_LOG_WARN:
		severity = 1;
		break;
	case SPDK_LOG_NOTICE:
		severity = 2;
		break;
	case SPDK_LOG_INFO:
		severity = 3;
		break;
	default:
		severity = 4;
		break;
	}
	g_log_cb(severity, file ? file : "", line, message);
}

void
cs_log_hook(cs_log_cb callback)
{
	g_log_cb = callback;
	spdk_log_open(log_message);
}

void
cs_log_level(int severity)
{
	static const enum spdk_log_level levels[] = {
		SPDK_LOG_DISABLED, SPDK_LOG_ERROR, SPDK_LOG_WARN, SPDK_LOG_NOTICE, SPDK_LOG_INFO, SPDK_LOG_DEBUG
	};

	if (severity < -1) {
		severity = -1;
	}
	if (severity > 4) {
		severity = 4;
	}
	spdk_log_set_level(levels[severity + 1]);
	spdk_log_set_print_level(levels[severity + 1]);
}

int
cs_log_flag_set(const char *name, bool enabled)
{
	return (enabled ? spdk_log_set_flag(name) : spdk_log_clear_flag(name)) == 0 ? 0 : -ENOENT;
}

void
cs_log_flags(cs_log_flag_cb cb, void *arg)
{
	for (struct spdk_log_flag *flag = spdk_log_get_first_flag(); flag != NULL;
	     flag = spdk_log_get_next_flag(flag)) {
		cb(arg, flag->name, flag->enabled);
	}
}

void
cs_env_memory(struct cs_env_memory *out)
{
	struct rte_malloc_socket_stats stats;

	memset(out, 0, sizeof(*out));
	for (int socket = 0; socket < RTE_MAX_NUMA_NODES; socket++) {
		if (rte_malloc_get_socket_stats(socket, &stats) == 0) {
			out->total_bytes += stats.heap_totalsz_bytes;
			out->free_bytes += stats.heap_freesz_bytes;
		}
	}
}

static void
core_list(const struct cs_env_config *config, char *out, size_t size, const char *open,
	  const char *close)
{
	size_t used = snprintf(out, size, "%s", open);

	for (size_t i = 0; i < config->core_count && used < size; i++) {
		used += snprintf(out + used, size - used, "%s%u", i ? "," : "", config->cores[i]);
	}
	if (used < size) {
		snprintf(out + used, size - used, "%s", close);
	}
}

#if !CS_SPDK_SINCE(24, 1)
/*
 * SPDK 20.07 cannot hand DPDK the pair of options that ordinary pages need (its own option
 * builder adds a conflicting one), so DPDK is started here and SPDK told afterwards.
 */
static int
start_without_hugepages(const struct cs_env_config *config)
{
	static char text[CS_MAX_ARGUMENTS][512];
	static char *arguments[CS_MAX_ARGUMENTS + 1];
	int count = 0;
	char cores[400];

	core_list(config, cores, sizeof(cores), "", "");
#define ARGUMENT(...) do { \
		snprintf(text[count], sizeof(text[count]), __VA_ARGS__); \
		arguments[count] = text[count]; \
		count++; \
	} while (0)
	ARGUMENT("%s", config->name);
	ARGUMENT("--no-shconf");
	ARGUMENT("-l");
	ARGUMENT("%s", cores);
	ARGUMENT("--master-lcore=%u", config->cores[0]);
	ARGUMENT("-m");
	ARGUMENT("%u", config->memory_mib);
	ARGUMENT("--no-huge");
	ARGUMENT("--legacy-mem");
	ARGUMENT("--iova-mode=va");
	ARGUMENT("--no-pci");
	ARGUMENT("--no-telemetry");
	ARGUMENT("--log-level=lib.eal:5");
	ARGUMENT("--base-virtaddr=0x200000000000");
	ARGUMENT("--file-prefix=corriente_pid%d", getpid());
#undef ARGUMENT
	arguments[count] = NULL;
	optind = 1;
	if (rte_eal_init(count, arguments) < 0) {
		return rte_errno ? -rte_errno : -EINVAL;
	}
	return spdk_env_dpdk_post_init(true);
}
#endif

#if CS_SPDK_SINCE(24, 1)
static atomic_bool g_cores_run;

/*
 * As the process ends, newer releases free DPDK's memory in a destructor, which waits for every core for ever and pulls
 * the memory from under the first one. So a process that ends while its reactors turn must not come to destructors.
 */
static void
leave_running_cores(int status, void *context)
{
	(void)context;
	if (atomic_load(&g_cores_run)) {
		fflush(NULL);
		_exit(status);
	}
}
#endif

/*
 * Where SPDK's memory begins, 8 TiB; its own choice is 32 TiB. Where an IOMMU translates, devices are told these addresses,
 * and SPDK's virtio driver has no queue beyond 16 TiB. Nothing else of a process is so low.
 */
#define BASE_ADDRESS 0x080000000000ULL

int
cs_env_start(const struct cs_env_config *config)
{
	struct spdk_env_opts opts = {};
	char cores[400];
	int rc;

#if !CS_SPDK_SINCE(24, 1)
	if (config->no_huge) {
		return start_without_hugepages(config);
	}
#endif
	core_list(config, cores, sizeof(cores), "[", "]");
#if CS_SPDK_SINCE(21, 1)
	opts.opts_size = sizeof(opts);
#endif
	spdk_env_opts_init(&opts);
	opts.name = config->name;
	opts.core_mask = cores;
	opts.shm_id = -1;
	opts.mem_size = config->memory_mib;
	opts.no_pci = config->no_pci;
	opts.base_virtaddr = BASE_ADDRESS;
	opts.hugedir = config->no_huge ? NULL : config->huge_dir;
	opts.unlink_hugepage = !config->no_huge;
#if CS_SPDK_SINCE(21, 1)
	opts.main_core = config->cores[0];
#else
	opts.master_core = config->cores[0];
#endif
#if CS_SPDK_SINCE(24, 1)
	opts.no_huge = config->no_huge;
#endif
	if (config->no_pci) {
		/* No device translates addresses, so virtual ones serve everywhere. */
		opts.iova_mode = "va";
	}
	rc = spdk_env_init(&opts);
#if CS_SPDK_SINCE(24, 1)
	if (rc == 0) {
		atomic_store(&g_cores_run, true);
		rc = on_exit(leave_running_cores, NULL) == 0 ? 0 : -ENOMEM;
	}
#endif
	return rc;
}

int
cs_env_launch(uint32_t core, int (*run)(void *arg), void *arg)
{
	return spdk_env_thread_launch_pinned(core, run, arg);
}

void
cs_env_wait_all(void)
{
	spdk_env_thread_wait_all();
}

void
cs_env_stopped(void)
{
#if CS_SPDK_SINCE(24, 1)
	atomic_store(&g_cores_run, false);
#endif
}
