//go:build rdma

#include "verbs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int hd_query(struct ibv_context *c, struct hd_limits *out)
{
	struct ibv_device_attr a;
	int err = ibv_query_device(c, &a);
	if (err)
		return err;
	out->ports = a.phys_port_cnt;
	out->max_requests = a.max_qp_wr;
	out->max_completions = a.max_cqe;
	out->max_pairs = a.max_qp;
	return 0;
}

int hd_query_port(struct ibv_context *c, uint32_t port, struct hd_port *out)
{
	struct ibv_port_attr a;
	int err = ibv_query_port(c, port, &a);
	if (err)
		return err;
	out->state = a.state;
	out->link_layer = a.link_layer;
	out->active_mtu = a.active_mtu;
	out->lid = a.lid;
	out->gid_table = a.gid_tbl_len > 0 ? (uint32_t)a.gid_tbl_len : 0;
	return 0;
}

int hd_gids(struct ibv_context *c, uint32_t ports, uint32_t port, struct hd_gid *out, int max)
{
	// All ports' come in one table, and if it is too short the answer is an error.
	size_t room = 1;
	for (uint32_t i = 1; i <= ports; i++) {
		struct hd_port p;
		int err = hd_query_port(c, i, &p);
		if (err)
			return -err;
		room += p.gid_table;
	}
	struct ibv_gid_entry *all = calloc(room, sizeof *all);
	if (!all)
		return -ENOMEM;
	ssize_t n = ibv_query_gid_table(c, all, room, 0);
	int kept = n < 0 ? (int)n : 0;
	for (ssize_t i = 0; i < n && kept < max; i++) {
		if (all[i].port_num != port)
			continue;
		memcpy(out[kept].raw, all[i].gid.raw, 16);
		out[kept].index = all[i].gid_index;
		out[kept].type = all[i].gid_type;
		out[kept].ifindex = all[i].ndev_ifindex;
		kept++;
	}
	free(all);
	return kept;
}

static int failed(const char **step, const char *what)
{
	*step = what;
	return errno ? errno : EINVAL;
}

int hd_open(struct ibv_context *c, struct ibv_pd *pd, struct hd_end *e, void *send, void *recv, uint64_t size, uint32_t sends, uint32_t receives,
	uint32_t inline_want, uint32_t port, const char **step)
{
	errno = 0;
	if (!(e->events = ibv_create_comp_channel(c)))
		return failed(step, "a completion channel");
	if (!(e->cq = ibv_create_cq(c, (int)(sends + receives), NULL, e->events, 0)))
		return failed(step, "a completion queue");
	if (!(e->send = ibv_reg_mr(pd, send, size, 0)))
		return failed(step, "registering the ring to send from");
	if (!(e->recv = ibv_reg_mr(pd, recv, size, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)))
		return failed(step, "registering the ring to receive in");
	e->send_at = (uint64_t)(uintptr_t)send;

	// A device says what it inlines only by refusing.
	struct ibv_qp_init_attr init;
	for (;;) {
		memset(&init, 0, sizeof init);
		init.send_cq = init.recv_cq = e->cq;
		init.qp_type = IBV_QPT_RC;
		init.cap.max_send_wr = sends;
		init.cap.max_recv_wr = receives;
		init.cap.max_send_sge = 1;
		init.cap.max_recv_sge = 1;
		init.cap.max_inline_data = inline_want;
		errno = 0;
		if ((e->qp = ibv_create_qp(pd, &init)))
			break;
		if (inline_want == 0)
			return failed(step, "a queue pair");
		inline_want /= 2;
	}
	e->inline_max = inline_want;

	struct ibv_qp_attr a = {
		.qp_state = IBV_QPS_INIT,
		.pkey_index = 0,
		.port_num = (uint8_t)port,
		.qp_access_flags = IBV_ACCESS_REMOTE_WRITE,
	};
	*step = "a queue pair's first state";
	int err = ibv_modify_qp(e->qp, &a, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
	if (err)
		return err;
	*step = "receive requests";
	while (receives > 0) {
		uint32_t n = receives < HD_POLL_MAX ? receives : HD_POLL_MAX;
		struct hd_completion none;
		err = hd_poll(e, (int)n, 0, &none, 0);
		if (err < 0)
			return -err;
		receives -= n;
	}
	return 0;
}

int hd_connect(struct hd_end *e, const struct hd_route *r, const char **step)
{
	struct ibv_qp_attr a;
	memset(&a, 0, sizeof a);
	a.qp_state = IBV_QPS_RTR;
	a.path_mtu = r->mtu;
	a.dest_qp_num = r->qpn;
	a.rq_psn = r->psn;
	a.max_dest_rd_atomic = 0;
	a.min_rnr_timer = 1;
	a.ah_attr.port_num = (uint8_t)r->port;
	if (r->global) {
		a.ah_attr.is_global = 1;
		memcpy(a.ah_attr.grh.dgid.raw, r->gid, 16);
		a.ah_attr.grh.sgid_index = (uint8_t)r->gid_index;
		a.ah_attr.grh.hop_limit = 64;
	}
	a.ah_attr.dlid = (uint16_t)r->lid;
	*step = "ready to receive";
	int err = ibv_modify_qp(e->qp, &a, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
		IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
	if (err)
		return err;
	memset(&a, 0, sizeof a);
	a.qp_state = IBV_QPS_RTS;
	a.timeout = (uint8_t)r->timeout;
	a.retry_cnt = (uint8_t)r->retries;
	a.rnr_retry = 0; // credit sees to it that a receive request is there
	a.sq_psn = r->own_psn;
	a.max_rd_atomic = 0;
	*step = "ready to send";
	return ibv_modify_qp(e->qp, &a, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
		IBV_QP_MAX_QP_RD_ATOMIC);
}

void hd_close(struct hd_end *e)
{
	// The queue pair first: after that the peer's requests reach no memory here.
	if (e->qp)
		ibv_destroy_qp(e->qp);
	if (e->recv)
		ibv_dereg_mr(e->recv);
	if (e->send)
		ibv_dereg_mr(e->send);
	if (e->cq)
		ibv_destroy_cq(e->cq);
	if (e->events)
		ibv_destroy_comp_channel(e->events);
	memset(e, 0, sizeof *e);
}

int hd_post(struct hd_end *e, uint64_t first, const struct hd_request *q, int n)
{
	struct ibv_send_wr wr[HD_POST_MAX], *bad;
	struct ibv_sge sge[HD_POST_MAX];
	if (n > HD_POST_MAX)
		return EINVAL;
	for (int i = 0; i < n; i++) {
		sge[i].addr = e->send_at + q[i].offset;
		sge[i].length = q[i].length;
		sge[i].lkey = e->send->lkey;
		memset(&wr[i], 0, sizeof wr[i]);
		wr[i].wr_id = first + (uint64_t)i;
		wr[i].next = i + 1 < n ? &wr[i + 1] : NULL;
		wr[i].sg_list = &sge[i];
		wr[i].num_sge = q[i].length > 0;
		wr[i].opcode = q[i].flags & HD_IMMEDIATE ? IBV_WR_RDMA_WRITE_WITH_IMM : IBV_WR_RDMA_WRITE;
		wr[i].send_flags = (q[i].flags & HD_SIGNALLED ? IBV_SEND_SIGNALED : 0) | (q[i].flags & HD_INLINE ? IBV_SEND_INLINE : 0);
		wr[i].imm_data = htobe32(q[i].imm);
		wr[i].wr.rdma.remote_addr = e->peer_at + q[i].offset;
		wr[i].wr.rdma.rkey = e->peer_rkey;
	}
	return ibv_post_send(e->qp, wr, &bad);
}

int hd_poll(struct hd_end *e, int receives, int arm, struct hd_completion *out, int max)
{
	struct ibv_wc wc[HD_POLL_MAX];
	if (receives > 0) {
		// Requests without memory: what the peer writes goes to the ring, and only tells of itself here.
		struct ibv_recv_wr wr[HD_POLL_MAX], *bad;
		while (receives > 0) {
			int n = receives < HD_POLL_MAX ? receives : HD_POLL_MAX;
			for (int i = 0; i < n; i++) {
				memset(&wr[i], 0, sizeof wr[i]);
				wr[i].wr_id = UINT64_MAX; // what a SEND of the peer's uses up, which there is none of, must not be taken for a request of ours
				wr[i].next = i + 1 < n ? &wr[i + 1] : NULL;
			}
			int err = ibv_post_recv(e->qp, wr, &bad);
			if (err)
				return -err;
			receives -= n;
		}
	}
	if (arm) {
		int err = ibv_req_notify_cq(e->cq, 0);
		if (err)
			return -err;
	}
	if (max == 0)
		return 0;
	int n = ibv_poll_cq(e->cq, max < HD_POLL_MAX ? max : HD_POLL_MAX, wc);
	if (n < 0)
		return -EIO;
	for (int i = 0; i < n; i++) {
		out[i].id = wc[i].wr_id;
		out[i].status = wc[i].status;
		out[i].receive = 0;
		if (wc[i].status == IBV_WC_SUCCESS && wc[i].opcode == IBV_WC_RECV_RDMA_WITH_IMM) {
			out[i].receive = 1;
			out[i].imm = be32toh(wc[i].imm_data);
			out[i].length = wc[i].byte_len;
		}
	}
	return n;
}

int hd_take_event(struct hd_end *e, int all)
{
	struct ibv_cq *cq;
	void *context;
	int taken = 0;
	do {
		errno = 0;
		if (ibv_get_cq_event(e->events, &cq, &context)) {
			if (errno == EAGAIN || errno == EINTR)
				break;
			return -(errno ? errno : EIO);
		}
		taken = 1;
		ibv_ack_cq_events(cq, 1);
	} while (all);
	return taken;
}

int hd_take_async(struct ibv_context *c, struct hd_async *out)
{
	struct ibv_async_event e;
	errno = 0;
	memset(out, 0, sizeof *out);
	if (ibv_get_async_event(c, &e))
		return errno == EAGAIN || errno == EINTR ? 0 : -(errno ? errno : EIO);
	out->type = e.event_type;
	switch (e.event_type) {
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
	case IBV_EVENT_COMM_EST:
	case IBV_EVENT_SQ_DRAINED:
	case IBV_EVENT_PATH_MIG:
	case IBV_EVENT_PATH_MIG_ERR:
	case IBV_EVENT_QP_LAST_WQE_REACHED:
		out->qpn = e.element.qp->qp_num;
		break;
	case IBV_EVENT_PORT_ACTIVE:
	case IBV_EVENT_PORT_ERR:
	case IBV_EVENT_LID_CHANGE:
	case IBV_EVENT_PKEY_CHANGE:
	case IBV_EVENT_SM_CHANGE:
	case IBV_EVENT_CLIENT_REREGISTER:
	case IBV_EVENT_GID_CHANGE:
		out->port = (uint32_t)e.element.port_num;
		break;
	default:
		break;
	}
	ibv_ack_async_event(&e);
	return 1;
}

int hd_break(struct hd_end *e)
{
	struct ibv_qp_attr a = { .qp_state = IBV_QPS_ERR };
	return ibv_modify_qp(e->qp, &a, IBV_QP_STATE);
}
