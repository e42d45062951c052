//go:build rdma

// What rdma's Go code asks of libibverbs. Nothing here keeps a pointer that came from Go, except to memory outside Go's heap.
#ifndef HERMESD_VERBS_H
#define HERMESD_VERBS_H

#include <stdint.h>
#include <infiniband/verbs.h>

struct hd_port {
	uint32_t state, link_layer, active_mtu, lid, gid_table;
};

struct hd_gid {
	uint8_t raw[16];
	uint32_t index, type, ifindex;
};

// What a device allows.
struct hd_limits {
	uint32_t ports, max_requests, max_completions, max_pairs;
};

// One end: a queue pair with its completion queue, and the two rings, registered.
struct hd_end {
	struct ibv_comp_channel *events;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	struct ibv_mr *send, *recv;
	uint64_t send_at;
	uint64_t peer_at;
	uint32_t peer_rkey;
	uint32_t inline_max;
};

// How two ends find each other. gid is unused within an InfiniBand subnet.
struct hd_route {
	uint8_t gid[16];
	uint32_t qpn, lid, psn, own_psn, mtu, gid_index, port, global, timeout, retries;
};

// As in wire.go, which verbs.go sees to.
enum { HD_POST_MAX = 64, HD_POLL_MAX = 64, HD_IMMEDIATE = 1, HD_SIGNALLED = 2, HD_INLINE = 4 };

struct hd_request {
	uint32_t offset, length, imm, flags;
};

struct hd_completion {
	uint64_t id;
	uint32_t imm, length, status, receive;
};

// All return 0 or an errno, unless they say something else.
int hd_query(struct ibv_context *, struct hd_limits *);
int hd_query_port(struct ibv_context *, uint32_t port, struct hd_port *);
// hd_gids returns how many GIDs a port of the device, which has so many, has, at most max, or minus an errno.
int hd_gids(struct ibv_context *, uint32_t ports, uint32_t port, struct hd_gid *out, int max);

// hd_open makes an end whose queue pair is ready to be connected; *step says what failed. What it made is freed by hd_close in any case.
int hd_open(struct ibv_context *, struct ibv_pd *, struct hd_end *, void *send, void *recv, uint64_t size, uint32_t sends, uint32_t receives,
	uint32_t inline_want, uint32_t port, const char **step);
int hd_connect(struct hd_end *, const struct hd_route *, const char **step);
void hd_close(struct hd_end *);

int hd_post(struct hd_end *, uint64_t first, const struct hd_request *, int n);
// hd_poll returns how many completions there are, or minus an errno.
int hd_poll(struct hd_end *, int receives, int arm, struct hd_completion *, int max);
// hd_take_event takes an event, or all. It returns 1 if there was one, 0 if not, or minus an errno.
int hd_take_event(struct hd_end *, int all);

// An asynchronous event. qpn is that of the queue pair that it is about, or 0; so is port.
struct hd_async {
	int type;
	uint32_t qpn, port;
};
// hd_take_async returns as hd_take_event does.
int hd_take_async(struct ibv_context *, struct hd_async *);
// hd_break has a queue pair fail, as a device would: for tests.
int hd_break(struct hd_end *);

#endif
