/*
 * Open MPI's collectives on f32, sums where they reduce, measured with the loop of `paceline bench`
 * and reported in its JSON (paceline.bench/1), so that one program can compare the two.
 *
 * The rules, the same for every contender:
 *   - the size is that of the larger buffer of a rank (rank 0 where one is the root): what all ranks
 *     together scatter, gather or exchange, not one rank's block of it;
 *   - buffers come from malloc and have been written before the clock starts;
 *   - operations that MPI and we can do in place are, unless --out-of-place;
 *   - the first operation of each size is checked, element by element;
 *   - warm-up doubles the number of operations until they take 20 ms; rank 0's time of the last
 *     run decides, for all ranks, how many operations follow;
 *   - operations below 10 us are timed in batches that last at least that long; one batch of
 *     operations below 1 ms runs untimed, to bring the ranks into step;
 *   - no barrier between operations; the clock is read once between two;
 *   - the time of operation i is the maximum over ranks of its duration on each;
 *   - CPU time is that of all threads, user and system.
 *
 * usage: mpi_bench COLLECTIVE --transport NAME --sizes BYTES,BYTES,... [--min-time SECONDS]
 *                  [--out-of-place]
 */
#include "mpi_operations.h"

#include <errno.h>
#include <math.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { SIZES_MAX = 1000, ITERATIONS_MIN = 5 };
static const double WARMUP_SECONDS = 0.02;
static const double BATCH_SECONDS = 10e-6;
static const double LEAD_SECONDS = 1e-3;

struct options {
    enum collective collective;
    const char *transport;
    double min_time;
    int out_of_place;
    int size_count;
    size_t sizes[SIZES_MAX];
};

struct statistics {
    double min, p50, p90, p99, p99_9, p99_99, max, mean, stddev;
};

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
    if (argc < 2)
        die("the first argument is the collective");
    options.collective = parse_collective(argv[1]);
    for (int i = 2; i < argc; i++) {
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
    if (options.collective == BARRIER) {
        options.size_count = 1;
        options.sizes[0] = 0;
    }
    if (options.transport == NULL || options.size_count == 0 || !(options.min_time > 0))
        die("--transport, --sizes and a positive --min-time are needed");
    return options;
}

/* Warms up and returns rank 0's time of one operation, the same number on all ranks. */
static double estimate_seconds(const struct buffers *buffers)
{
    for (long operations = 1;; operations *= 2) {
        MPI_Barrier(MPI_COMM_WORLD);
        uint64_t start = now();
        for (long i = 0; i < operations; i++)
            run(buffers);
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

/* A number of the report; null where there is none, as for the bytes of a barrier. */
static const char *number(char *text, size_t room, double value)
{
    snprintf(text, room, isfinite(value) ? "%.6g" : "null", value);
    return text;
}

static double bus_factor(enum collective collective)
{
    double share = (double)(world_size - 1) / world_size;
    if (collective == ALL_REDUCE)
        return 2.0 * share;
    return collective == BROADCAST || collective == REDUCE ? 1.0 : share;
}

static void print_result(const struct options *options, const struct buffers *buffers,
                         const struct statistics *time, long iterations, long batch, double cpu,
                         uint64_t wrong, int is_first)
{
    double operations = (double)iterations * (double)batch;
    double bytes = (double)buffers->elements * sizeof(float);
    double algbw = bytes > 0 ? bytes / time->mean / 1e3 : NAN;
    double gib = bytes > 0 ? bytes * operations / 1073741824.0 : NAN;
    char rate[32], bus[32], cost[32];
    printf("%s\n    {\"collective\": \"%s\", \"transport\": \"%s\", \"emulated\": false,\n"
           "     \"algorithm\": \"library\", \"world_size\": %d, \"dtype\": \"f32\", \"op\": \"sum\",\n"
           "     \"count\": %d, \"bytes\": %.0f, \"model\": null, \"fusion_bytes\": null,\n"
           "     \"iterations\": %.0f, \"batch\": %ld,\n"
           "     \"rounds\": [{\"mean\": %.6g, \"p50\": %.6g, \"p99\": %.6g}],\n"
           "     \"time_us\": {\"min\": %.6g, \"p50\": %.6g, \"p90\": %.6g, \"p99\": %.6g,\n"
           "       \"p99_9\": %.6g, \"p99_99\": %.6g, \"max\": %.9g, \"mean\": %.9g, \"stddev\": %.6g},\n"
           "     \"algbw_gbs\": %s, \"busbw_gbs\": %s, \"floor_pct\": null,\n"
           "     \"cpu_s_per_gib\": %s, \"wrong\": %llu, \"histogram\": null}",
           is_first ? "" : ",", NAMES[options->collective], options->transport, world_size, buffers->block,
           bytes, operations, batch, time->mean, time->p50, time->p99, time->min, time->p50, time->p90,
           time->p99, time->p99_9, time->p99_99, time->max, time->mean, time->stddev,
           number(rate, sizeof rate, algbw),
           number(bus, sizeof bus, algbw * bus_factor(options->collective)),
           number(cost, sizeof cost, cpu / world_size / gib), (unsigned long long)wrong);
    fflush(stdout);
}

static void measure(const struct options *options, size_t bytes, int is_first)
{
    struct buffers buffers = make_buffers(options->collective, bytes, options->out_of_place);
    fill(&buffers, 1);
    run(&buffers);
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
    for (long j = 0; estimate < LEAD_SECONDS && j < batch; j++)
        run(&buffers);
    double cpu = cpu_seconds();
    uint64_t before = now();
    for (long i = 0; i < iterations; i++) {
        for (long j = 0; j < batch; j++)
            run(&buffers);
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
        print_result(options, &buffers, &time, iterations, batch, cpu_total, wrong, is_first);
    }
    free(times);
    free(buffers.output);
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
