/* A node of libraft over its own libuv backend, for perf/peers/src/libraft.rs; build.sh compiles it.
 *
 *   libraft-node ID DIR SPIN_US ADDRESS ADDRESS ADDRESS      one of three nodes; DIR exists and is empty
 *   libraft-node --version
 *
 * One thread and one loop, as libraft is meant to be used; its log is written with O_DIRECT and O_DSYNC. What its
 * interface leaves open is chosen for speed: all entries of the client that came together become one raft_apply, so one
 * message to each follower and one write; segments are large; sockets do not delay (libraft leaves Nagle's algorithm on,
 * though no difference was found); the loop polls and yields before it blocks; snapshots are rare and hold one number, for
 * there is no state but the count of entries.
 *
 * The client speaks what perf/peers/src/harness.rs describes: a hello of one zero byte, then entries, each a length (u32,
 * little endian) and its bytes; the answer is the number of entries committed so far (u64, little endian). Node 1 leads,
 * and its standard input is the socket that listens for the client. A cluster lives for one measurement: whatever goes
 * wrong ends the node, with a line on standard error. */

#include <endian.h>
#include <poll.h>
#include <raft.h>
#include <raft/uv.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef LIBRAFT_VERSION
#error "build.sh tells the version"
#endif

enum {
    NODES = 3,
    LEADER = 1,
    /* Node 1 asks for votes long before another would, and then keeps the lead through any stall of the disk. */
    FIRST_ELECTION_MS = 100,
    ELECTION_MS = 10000,
    HEARTBEAT_MS = 100,
    CONNECT_RETRY_MS = 20,
    TICK_MS = 20,
    /* A change of segments holds up all commits, for 30 ms here: eight times the default. */
    SEGMENT_BYTES = 64 << 20,
    /* About 80 MB of entries in memory at the most, at 256 bytes. */
    SNAPSHOT_ENTRIES = 262144,
    KEEP_ENTRIES = 65536,
    /* As perf/peers/src/bench.rs has it; two of them fit into what is received at once. */
    MAX_ENTRY_BYTES = 1 << 20,
    LENGTH_BYTES = 4,
    RECEIVE_BYTES = 2 * (MAX_ENTRY_BYTES + LENGTH_BYTES),
    BATCH_ENTRIES = 4096,
};

/* All there is; one thread. */
static struct {
    uv_loop_t loop;
    struct raft_uv_transport transport;
    struct raft_io io;
    struct raft_fsm fsm;
    struct raft raft;
    raft_id id;
    uv_timer_t tick;
    int ready;

    uv_tcp_t listener;
    uv_tcp_t client;
    int hello_came;
    char received[RECEIVE_BYTES];
    size_t received_bytes;

    /* Entries that are committed, and how many of them the client was told of. */
    uint64_t committed;
    uint64_t answered;
    uv_prepare_t before_wait;
    uv_write_t answer;
    uint64_t answer_value;
    int answer_under_way;
} node;

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static void need_uv(int result, const char *what) {
    if (result < 0) die("%s: %s", what, uv_strerror(result));
}

static void need_raft(int result, const char *what) {
    const char *detail = node.raft.errmsg[0] != '\0' ? node.raft.errmsg : node.io.errmsg;
    if (result != 0) die("%s: %s (%s)", what, raft_strerror(result), detail);
}

static void *allocate(size_t bytes) {
    void *memory = raft_malloc(bytes);
    if (memory == NULL) die("out of memory");
    return memory;
}

/* ---- the state machine: a count ---- */

static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *entry, void **result) {
    (void)fsm, (void)entry;
    node.committed += 1;
    *result = NULL;
    return 0;
}

static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer *buffers[], unsigned *count) {
    (void)fsm;
    uint64_t committed = htole64(node.committed);
    struct raft_buffer *buffer = allocate(sizeof *buffer);
    buffer->base = allocate(sizeof committed);
    buffer->len = sizeof committed;
    memcpy(buffer->base, &committed, sizeof committed);
    *buffers = buffer;
    *count = 1;
    return 0;
}

static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buffer) {
    (void)fsm;
    uint64_t committed;
    if (buffer->len != sizeof committed) return RAFT_MALFORMED;
    memcpy(&committed, buffer->base, sizeof committed);
    node.committed = le64toh(committed);
    raft_free(buffer->base);
    return 0;
}

/* ---- the client ---- */

static void batch_ended(struct raft_apply *request, int status, void *result) {
    (void)result;
    if (status != 0) die("entries were not committed: %s", raft_strerror(status));
    raft_free(request);
}

/* libraft takes the entries' memory. It wants multiples of eight bytes; the entry's own come first. */
static struct raft_buffer entry_of(const char *bytes, size_t length) {
    struct raft_buffer entry = {.len = (length + 7) / 8 * 8};
    entry.base = allocate(entry.len);
    memcpy(entry.base, bytes, length);
    memset((char *)entry.base + length, 0, entry.len - length);
    return entry;
}

/* Makes one batch of the entries from `*at` that came whole; tells how many. */
static unsigned next_batch(struct raft_buffer batch[BATCH_ENTRIES], size_t *at) {
    unsigned count = 0;
    while (count < BATCH_ENTRIES && node.received_bytes - *at >= LENGTH_BYTES) {
        uint32_t length;
        memcpy(&length, node.received + *at, LENGTH_BYTES);
        length = le32toh(length);
        if (length == 0 || length > MAX_ENTRY_BYTES) die("the client sent an entry of %u bytes", length);
        if (node.received_bytes - *at - LENGTH_BYTES < length) break;
        batch[count++] = entry_of(node.received + *at + LENGTH_BYTES, length);
        *at += LENGTH_BYTES + length;
    }
    return count;
}

static void propose_received(void) {
    static struct raft_buffer batch[BATCH_ENTRIES];
    size_t at = 0;
    if (!node.hello_came && node.received_bytes > 0) {
        if (node.received[at++] != 0) die("a client says hello with a zero byte");
        node.hello_came = 1;
    }
    for (unsigned count; (count = next_batch(batch, &at)) > 0;) {
        struct raft_apply *request = allocate(sizeof *request);
        need_raft(raft_apply(&node.raft, request, batch, count, batch_ended), "raft_apply");
    }
    node.received_bytes -= at;
    memmove(node.received, node.received + at, node.received_bytes);
}

static void room_to_receive(uv_handle_t *client, size_t suggested, uv_buf_t *room) {
    (void)client, (void)suggested;
    *room = uv_buf_init(node.received + node.received_bytes, RECEIVE_BYTES - node.received_bytes);
}

static void client_sent(uv_stream_t *client, ssize_t bytes, const uv_buf_t *room) {
    (void)client, (void)room;
    need_uv((int)bytes, "the client's connection");
    node.received_bytes += (size_t)bytes;
    propose_received();
}

static void answer_sent(uv_write_t *request, int status) {
    (void)request;
    need_uv(status, "an answer to the client");
    node.answer_under_way = 0;
}

/* Runs before each wait: what was committed since the last one is one answer. */
static void answer_client(uv_prepare_t *prepare) {
    (void)prepare;
    if (!node.hello_came || node.answer_under_way || node.committed == node.answered) return;
    node.answered = node.committed;
    node.answer_value = htole64(node.answered);
    node.answer_under_way = 1;
    uv_buf_t bytes = uv_buf_init((char *)&node.answer_value, sizeof node.answer_value);
    need_uv(uv_write(&node.answer, (uv_stream_t *)&node.client, &bytes, 1, answer_sent), "an answer to the client");
}

static void client_connects(uv_stream_t *listener, int status) {
    need_uv(status, "a client's connection");
    need_uv(uv_tcp_init(&node.loop, &node.client), "uv_tcp_init");
    need_uv(uv_accept(listener, (uv_stream_t *)&node.client), "uv_accept");
    need_uv(uv_read_start((uv_stream_t *)&node.client, room_to_receive, client_sent), "uv_read_start");
    /* One client. */
    uv_close((uv_handle_t *)listener, NULL);
}

static void listen_for_client(void) {
    need_uv(uv_tcp_init(&node.loop, &node.listener), "uv_tcp_init");
    need_uv(uv_tcp_open(&node.listener, 0), "standard input is no socket");
    need_uv(uv_listen((uv_stream_t *)&node.listener, 1, client_connects), "uv_listen");
}

/* ---- the node ---- */

static void without_delay(uv_handle_t *handle, void *unused) {
    (void)unused;
    if (handle->type == UV_TCP && !uv_is_closing(handle)) {
        need_uv(uv_tcp_nodelay((uv_tcp_t *)handle, 1), "TCP_NODELAY");
    }
}

/* libraft connects when it has something to send, and tells nobody: every tick looks at all sockets. */
static void on_tick(uv_timer_t *timer) {
    (void)timer;
    uv_walk(&node.loop, without_delay, NULL);
    raft_id leader = 0;
    const char *address = NULL;
    raft_leader(&node.raft, &leader, &address);
    if (leader == LEADER && !node.ready) {
        node.ready = 1;
        if (node.id == LEADER) {
            raft_set_election_timeout(&node.raft, ELECTION_MS);
            listen_for_client();
        }
        fprintf(stderr, "ready to serve\n");
    } else if (node.ready ? leader != LEADER : leader != 0 && leader != LEADER) {
        die("node %d no longer leads: %llu does", LEADER, leader);
    }
}

static void start_raft(const char *dir, char *addresses[NODES]) {
    need_raft(raft_uv_tcp_init(&node.transport, &node.loop), "raft_uv_tcp_init");
    need_raft(raft_uv_init(&node.io, &node.loop, dir, &node.transport), "raft_uv_init");
    raft_uv_set_segment_size(&node.io, SEGMENT_BYTES);
    raft_uv_set_connect_retry_delay(&node.io, CONNECT_RETRY_MS);
    node.fsm = (struct raft_fsm){.version = 1, .apply = fsm_apply, .snapshot = fsm_snapshot, .restore = fsm_restore};
    need_raft(raft_init(&node.raft, &node.io, &node.fsm, node.id, addresses[node.id - 1]), "raft_init");
    raft_set_election_timeout(&node.raft, node.id == LEADER ? FIRST_ELECTION_MS : ELECTION_MS);
    raft_set_heartbeat_timeout(&node.raft, HEARTBEAT_MS);
    raft_set_snapshot_threshold(&node.raft, SNAPSHOT_ENTRIES);
    raft_set_snapshot_trailing(&node.raft, KEEP_ENTRIES);
    struct raft_configuration members;
    raft_configuration_init(&members);
    for (raft_id id = 1; id <= NODES; id++) {
        need_raft(raft_configuration_add(&members, id, addresses[id - 1], RAFT_VOTER), "raft_configuration_add");
    }
    need_raft(raft_bootstrap(&node.raft, &members), "raft_bootstrap");
    raft_configuration_close(&members);
    need_raft(raft_start(&node.raft), "raft_start");
}

/* Polls and yields until nothing came for so long, then blocks. */
static void turns(uint64_t spin_ns) {
    struct pollfd events = {.fd = uv_backend_fd(&node.loop), .events = POLLIN};
    uint64_t last_work = uv_hrtime();
    for (;;) {
        uint64_t now = uv_hrtime();
        if (poll(&events, 1, 0) > 0) last_work = now;
        if (now - last_work < spin_ns) {
            uv_run(&node.loop, UV_RUN_NOWAIT);
            sched_yield();
        } else {
            uv_run(&node.loop, UV_RUN_ONCE);
            last_work = uv_hrtime();
        }
    }
}

static unsigned long number(const char *text, unsigned long least, unsigned long most) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*text == '\0' || *end != '\0' || value < least || value > most) die("%s: choose %lu to %lu", text, least, most);
    return value;
}

int main(int count, char *arguments[]) {
    if (count == 2 && strcmp(arguments[1], "--version") == 0) {
        printf("libraft %s, libuv %s\n", LIBRAFT_VERSION, uv_version_string());
        return 0;
    }
    if (count != 4 + NODES) die("usage: libraft-node ID DIR SPIN_US ADDRESS ADDRESS ADDRESS");
    node.id = number(arguments[1], 1, NODES);
    uint64_t spin_us = number(arguments[3], 0, 1000000);
    need_uv(uv_loop_init(&node.loop), "uv_loop_init");
    start_raft(arguments[2], &arguments[4]);
    need_uv(uv_prepare_init(&node.loop, &node.before_wait), "uv_prepare_init");
    need_uv(uv_prepare_start(&node.before_wait, answer_client), "uv_prepare_start");
    need_uv(uv_timer_init(&node.loop, &node.tick), "uv_timer_init");
    need_uv(uv_timer_start(&node.tick, on_tick, TICK_MS, TICK_MS), "uv_timer_start");
    turns(spin_us * 1000);
}
