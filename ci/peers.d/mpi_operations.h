/* The collectives that mpi_bench.c measures: their buffers, their calls, and what they must give. */
#ifndef MPI_OPERATIONS_H
#define MPI_OPERATIONS_H

#include <mpi.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum collective {
    ALL_REDUCE,
    REDUCE_SCATTER,
    ALL_GATHER,
    BROADCAST,
    REDUCE,
    ALL_TO_ALL,
    GATHER,
    SCATTER,
    BARRIER,
    COLLECTIVES
};

static const char *const NAMES[COLLECTIVES] = {
    "all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce",
    "all_to_all", "gather",         "scatter",    "barrier",
};

struct buffers {
    enum collective collective;
    float *input; /* NULL in place */
    float *output;
    int input_count;
    int output_count;
    int block; /* elements of one rank's part, where each rank has one */
    int elements; /* of the larger buffer */
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

static enum collective parse_collective(const char *name)
{
    for (int i = 0; i < COLLECTIVES; i++)
        if (strcmp(NAMES[i], name) == 0)
            return (enum collective)i;
    die("unknown collective \"%s\"", name);
    return COLLECTIVES;
}

static struct buffers make_buffers(enum collective collective, size_t bytes, int out_of_place)
{
    int blocked = collective == REDUCE_SCATTER || collective == ALL_GATHER || collective == ALL_TO_ALL ||
                  collective == GATHER || collective == SCATTER;
    int parts = blocked ? world_size : 1;
    int block = (int)(bytes / sizeof(float) / (size_t)parts);
    if (block == 0 && bytes > 0)
        block = 1;
    struct buffers buffers = {.collective = collective, .block = block, .elements = block * parts};
    int all = buffers.elements, is_root = rank == 0;
    int apart = out_of_place || collective == ALL_TO_ALL || collective == GATHER || collective == SCATTER;

    buffers.output_count = all;
    if (apart && collective != BROADCAST && collective != BARRIER) {
        buffers.input_count = all;
        if (collective == ALL_GATHER || collective == GATHER)
            buffers.input_count = block;
        if (collective == REDUCE_SCATTER || collective == SCATTER)
            buffers.output_count = block;
        if (collective == SCATTER && !is_root)
            buffers.input_count = 0;
        if ((collective == GATHER || collective == REDUCE) && !is_root)
            buffers.output_count = 0;
        buffers.input = allocate((size_t)buffers.input_count * sizeof(float));
        memset(buffers.input, 0, (size_t)buffers.input_count * sizeof(float));
    }
    buffers.output = allocate((size_t)buffers.output_count * sizeof(float));
    memset(buffers.output, 0, (size_t)buffers.output_count * sizeof(float));
    return buffers;
}

static void run(const struct buffers *b)
{
    const MPI_Comm world = MPI_COMM_WORLD;
    const void *input = b->input != NULL ? (const void *)b->input : MPI_IN_PLACE;
    switch (b->collective) {
    case ALL_REDUCE:
        MPI_Allreduce(input, b->output, b->elements, MPI_FLOAT, MPI_SUM, world);
        break;
    case REDUCE_SCATTER:
        MPI_Reduce_scatter_block(input, b->output, b->block, MPI_FLOAT, MPI_SUM, world);
        break;
    case ALL_GATHER:
        MPI_Allgather(input, b->block, MPI_FLOAT, b->output, b->block, MPI_FLOAT, world);
        break;
    case BROADCAST:
        MPI_Bcast(b->output, b->elements, MPI_FLOAT, 0, world);
        break;
    case REDUCE:
        if (rank != 0 && b->input == NULL)
            input = b->output;
        MPI_Reduce(input, rank == 0 ? b->output : NULL, b->elements, MPI_FLOAT, MPI_SUM, 0, world);
        break;
    case ALL_TO_ALL:
        MPI_Alltoall(input, b->block, MPI_FLOAT, b->output, b->block, MPI_FLOAT, world);
        break;
    case GATHER:
        MPI_Gather(input, b->block, MPI_FLOAT, b->output, b->block, MPI_FLOAT, 0, world);
        break;
    case SCATTER:
        MPI_Scatter(input, b->block, MPI_FLOAT, b->output, b->block, MPI_FLOAT, 0, world);
        break;
    default:
        MPI_Barrier(world);
    }
}

/* Element i of what rank r has: a small integer, so that sums are exact. */
static float value(int r, int i)
{
    return (float)((i % 1009) * (r + 1) % 1013);
}

/* Fills the source with values, or with zeros, which any number of sums leaves as they are. */
static void fill(const struct buffers *b, int with_data)
{
    int gathers = b->collective == ALL_GATHER || b->collective == GATHER;
    float *source = b->input != NULL ? b->input : b->output;
    int count = b->input != NULL ? b->input_count : b->output_count;
    int first = gathers && b->input != NULL ? rank * b->block : 0;
    for (int i = 0; i < count; i++)
        source[i] = with_data ? value(rank, first + i) : 0.0f;
}

static float expected(const struct buffers *b, int i)
{
    float sum = 0;
    switch (b->collective) {
    case ALL_GATHER:
    case GATHER:
        return value(i / b->block, i);
    case ALL_TO_ALL:
        return value(i / b->block, rank * b->block + i % b->block);
    case BROADCAST:
        return value(0, i);
    case SCATTER:
        return value(0, rank * b->block + i);
    case REDUCE_SCATTER:
        i += rank * b->block;
        break;
    default:
        break;
    }
    for (int r = 0; r < world_size; r++)
        sum += value(r, i);
    return sum;
}

static uint64_t count_wrong(const struct buffers *b)
{
    uint64_t wrong = 0;
    int count = b->output_count;
    if (b->collective == REDUCE_SCATTER)
        count = b->block;
    if (b->collective == BARRIER || (b->collective == REDUCE && rank != 0))
        count = 0;
    for (int i = 0; i < count; i++)
        wrong += b->output[i] != expected(b, i);
    MPI_Allreduce(MPI_IN_PLACE, &wrong, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    return wrong;
}

#endif
