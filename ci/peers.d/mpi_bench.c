/*
 * MPI_Allreduce of f32 sums, measured with the loop of `paceline bench` and reported in its JSON
 * (paceline.bench/1), so that one program can compare the two.
 *
 * The rules, the same for every contender:
 *   - buffers come from malloc and have been written before the clock starts;
 *   - the first operation of each size is checked, element by element;
 *   - warm-up doubles the number of operations until they take 20 ms; rank 0's time of the last
 *     run decides, for all ranks, how many operations follow;
 *   - operations below 10 us are timed in batches that last at least that long;
 *   - no barrier between operations; the clock is read once between two;
 *   - the time of operation i is the maximum over ranks of its duration on each.
 *
 * usage: mpi_bench --transport NAME --sizes BYTES,BYTES,... [--min-time SECONDS] [--out-of-place]
 */
#include <errno.h>
#include <math.h>
#include <mpi.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { SIZES_MAX = 1000, ITERATIONS_MIN = 5 };
static const double WARMUP_SECONDS = 0.02;
static const double BATCH_SECONDS = 10e-6;

struct options {
    const char *transport;
    double min_time;
    int out_of_place;
    int size_count;
    size_t sizes[SIZES_MAX];
};

struct buffers {
    float *input; /* MPI_IN_PLACE unless out of place */
    float *output;
    int count;
};

struct statistics {
    double min, p50, p90, p99, p99_9, p99_99, max, mean, stddev;
};

static int rank, world_size;

static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "mpi_bench: rank %d: ", rank);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
}

static void *allocate(size_t bytes)
{
    void *memory = malloc(bytes > 0 ? bytes : 1);
    if (memory == NULL)
        die("cannot allocate %zu bytes", bytes);
    return memory;
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* User and system time of this process, all its threads included. */
static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void parse_sizes(struct options *options, const char *list)
{
    while (*list != '\0') {
        char *end;
        errno = 0;
        unsigned long long bytes = strtoull(list, &end, 10);
        if (end == list || errno != 0 || bytes % sizeof(float) != 0 || bytes / sizeof(float) > INT32_MAX)
            die("bad size at \"%s\": expected multiples of 4 below 8 GiB", list);
        if (options->size_count == SIZES_MAX)
            die("more than %d sizes", SIZES_MAX);
        options->sizes[options->size_count++] = bytes;
        if (*end != '\0' && *end != ',')
            die("expected a comma at \"%s\"", end);
        list = *end == ',' ? end + 1 : end;
    }
}

static struct options parse_options(int argc, char **argv)
{
    struct options options = {.transport = NULL, .min_time = 0.2};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--out-of-place") == 0) {
            options.out_of_place = 1;
            continue;
        }
        if (strcmp(argv[i], "--transport") == 0)
            options.transport = value;
        else if (strcmp(argv[i], "--sizes") == 0)
            parse_sizes(&options, value);
        else if (strcmp(argv[i], "--min-time") == 0)
            options.min_time = strtod(value, NULL);
        else
            die("unknown option %s", argv[i]);
        i++;
    }
    if (options.transport == NULL || options.size_count == 0 || !(options.min_time > 0))
        die("--transport, --sizes and a positive --min-time are needed");
    return options;
}

static void all_reduce(const struct buffers *buffers)
{
    MPI_Allreduce(buffers->input, buffers->output, buffers->count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

/* Fills the source buffer with small integers, which add up exactly, or with zeros. */
static void fill(const struct buffers *buffers, int with_data)
{
    float *source = (void *)buffers->input == MPI_IN_PLACE ? buffers->output : buffers->input;
    for (int i = 0; i < buffers->count; i++)
        source[i] = with_data ? (float)((i % 1009) * (rank + 1) % 1013) : 0.0f;
}

static uint64_t count_wrong(const struct buffers *buffers)
{
    uint64_t wrong = 0;
    for (int i = 0; i < buffers->count; i++) {
        float expected = 0;
        for (int r = 0; r < world_size; r++)
            expected += (float)((i % 1009) * (r + 1) % 1013);
        wrong += buffers->output[i] != expected;
    }
    MPI_Allreduce(MPI_IN_PLACE, &wrong, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    return wrong;
}

/* Warms up and returns rank 0's time of one operation, the same number on all ranks. */
static double estimate_seconds(const struct buffers *buffers)
{
    for (long operations = 1;; operations *= 2) {
        MPI_Barrier(MPI_COMM_WORLD);
        uint64_t start = now();
        for (long i = 0; i < operations; i++)
            all_reduce(buffers);
        double elapsed = 1e-9 * (double)(now() - start);
        MPI_Bcast(&elapsed, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
        if (elapsed >= WARMUP_SECONDS)
            return elapsed / (double)operations;
    }
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The value at or below which `percent` of the sorted times lie, in microseconds. */
static double percentile(const uint64_t *sorted, long count, double percent, long batch)
{
    long index = (long)ceil(percent / 100.0 * (double)count) - 1;
    return (double)sorted[index < 0 ? 0 : index] / (double)batch / 1e3;
}

static struct statistics summarise(uint64_t *times, long count, long batch)
{
    double mean = 0, squares = 0;
    for (long i = 0; i < count; i++)
        mean += (double)times[i] / (double)batch / 1e3 / (double)count;
    for (long i = 0; i < count; i++) {
        double deviation = (double)times[i] / (double)batch / 1e3 - mean;
        squares += deviation * deviation;
    }
    qsort(times, (size_t)count, sizeof times[0], ascending);
    return (struct statistics){
        .min = percentile(times, count, 0, batch),
        .p50 = percentile(times, count, 50, batch),
        .p90 = percentile(times, count, 90, batch),
        .p99 = percentile(times, count, 99, batch),
        .p99_9 = percentile(times, count, 99.9, batch),
        .p99_99 = percentile(times, count, 99.99, batch),
        .max = percentile(times, count, 100, batch),
        .mean = mean,
        .stddev = sqrt(squares / (double)count),
    };
}

static void print_result(const struct options *options, const struct statistics *time, size_t bytes,
                         long iterations, long batch, double cpu, uint64_t wrong, int is_first)
{
    double operations = (double)iterations * (double)batch;
    double algbw = (double)bytes / time->mean / 1e3;
    double gib = (double)bytes * operations / 1073741824.0;
    printf("%s\n    {\"collective\": \"all_reduce\", \"transport\": \"%s\", \"emulated\": false,\n"
           "     \"algorithm\": \"library\", \"world_size\": %d, \"dtype\": \"f32\", \"op\": \"sum\",\n"
           "     \"count\": %zu, \"bytes\": %zu, \"model\": null, \"fusion_bytes\": null,\n"
           "     \"iterations\": %.0f, \"batch\": %ld,\n"
           "     \"rounds\": [{\"mean\": %.6g, \"p50\": %.6g, \"p99\": %.6g}],\n"
           "     \"time_us\": {\"min\": %.6g, \"p50\": %.6g, \"p90\": %.6g, \"p99\": %.6g,\n"
           "       \"p99_9\": %.6g, \"p99_99\": %.6g, \"max\": %.9g, \"mean\": %.9g, \"stddev\": %.6g},\n"
           "     \"algbw_gbs\": %.6g, \"busbw_gbs\": %.6g, \"floor_pct\": null,\n"
           "     \"cpu_s_per_gib\": %.6g, \"wrong\": %llu, \"histogram\": null}",
           is_first ? "" : ",", options->transport, world_size, bytes / sizeof(float), bytes, operations,
           batch, time->mean, time->p50, time->p99, time->min, time->p50, time->p90, time->p99, time->p99_9,
           time->p99_99, time->max, time->mean, time->stddev, algbw,
           algbw * 2.0 * (world_size - 1) / world_size, cpu / world_size / gib, (unsigned long long)wrong);
    fflush(stdout);
}

static void measure(const struct options *options, size_t bytes, int is_first)
{
    struct buffers buffers = {
        .input = options->out_of_place ? allocate(bytes) : MPI_IN_PLACE,
        .output = allocate(bytes),
        .count = (int)(bytes / sizeof(float)),
    };
    memset(buffers.output, 0, bytes);
    fill(&buffers, 1);
    all_reduce(&buffers);
    uint64_t wrong = count_wrong(&buffers);
    fill(&buffers, 0);

    double estimate = estimate_seconds(&buffers);
    long batch = estimate < BATCH_SECONDS ? (long)ceil(BATCH_SECONDS / estimate) : 1;
    long iterations = (long)ceil(options->min_time / (estimate * (double)batch));
    if (iterations < ITERATIONS_MIN)
        iterations = ITERATIONS_MIN;
    uint64_t *times = allocate((size_t)iterations * sizeof *times);
    memset(times, 0, (size_t)iterations * sizeof *times);

    MPI_Barrier(MPI_COMM_WORLD);
    double cpu = cpu_seconds();
    uint64_t before = now();
    for (long i = 0; i < iterations; i++) {
        for (long j = 0; j < batch; j++)
            all_reduce(&buffers);
        uint64_t after = now();
        times[i] = after - before;
        before = after;
    }
    cpu = cpu_seconds() - cpu;

    const void *mine = rank == 0 ? MPI_IN_PLACE : (const void *)times;
    MPI_Reduce(mine, times, (int)iterations, MPI_UINT64_T, MPI_MAX, 0, MPI_COMM_WORLD);
    double cpu_total = 0;
    MPI_Reduce(&cpu, &cpu_total, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0) {
        struct statistics time = summarise(times, iterations, batch);
        print_result(options, &time, bytes, iterations, batch, cpu_total, wrong, is_first);
    }
    free(times);
    free(buffers.output);
    if (options->out_of_place)
        free(buffers.input);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    struct options options = parse_options(argc, argv);

    if (rank == 0) {
#ifdef OMPI_MAJOR_VERSION
        printf("{\"schema\": \"paceline.bench/1\", \"peer\": {\"name\": \"Open MPI\", \"version\": \"%d.%d.%d\"},\n",
               OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION, OMPI_RELEASE_VERSION);
#else
        printf("{\"schema\": \"paceline.bench/1\", \"peer\": {\"name\": \"MPI\", \"version\": \"%d.%d\"},\n",
               MPI_VERSION, MPI_SUBVERSION);
#endif
        printf(" \"config\": {\"world_size\": %d, \"rounds\": 1, \"out_of_place\": %s, \"check\": \"first\",\n"
               "   \"warmup\": 1, \"iterations\": null, \"min_time_s\": %.6g},\n \"results\": [",
               world_size, options.out_of_place ? "true" : "false", options.min_time);
    }
    for (int i = 0; i < options.size_count; i++)
        measure(&options, options.sizes[i], i == 0);
    if (rank == 0)
        printf("\n ]}\n");
    MPI_Finalize();
    return 0;
}
