/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The mesh at sockets of the host's own processes, attached to the root of the cgroup hierarchy where
 * a mesh says `host = true`: they reach services as functions do. Programs of others there run too.
 * What has nobody to answer is refused with ECONNREFUSED; all else returns 1, as it was.
 */
#include "lib/mesh.h"
#include "lib/host.h"

/* BCC 0.26 has the number (Linux 5.18), and no function. */
static int (*set_retval)(int) = (void *)187;

HOT int host_refuse(void)
{
	set_retval(-111); /* ECONNREFUSED; 0 alone would be EPERM */
	return 0;
}

HOT void host_get6(struct bpf_sock_addr *ctx, struct mesh_address *address)
{
	address->word[0] = ctx->user_ip6[0];
	address->word[1] = ctx->user_ip6[1];
	address->word[2] = ctx->user_ip6[2];
	address->word[3] = ctx->user_ip6[3];
}

HOT void host_set6(struct bpf_sock_addr *ctx, const struct mesh_address *address, __be16 port)
{
	ctx->user_ip6[0] = address->word[0];
	ctx->user_ip6[1] = address->word[1];
	ctx->user_ip6[2] = address->word[2];
	ctx->user_ip6[3] = address->word[3];
	ctx->user_port = port;
}

/* connect() and sendto(): where to. */
HOT int host_to4(struct bpf_sock_addr *ctx, int connects)
{
	struct mesh_socket to = {};
	struct mesh_address address;
	enum host_answer answer;

	if (!host_is_ours(ctx, ctx->protocol))
		return 1;
	address_set4(&address, ctx->user_ip4);
	answer = host_ask(ctx, &address, &to, connects);
	if (answer == HOST_REFUSED)
		return host_refuse();
	if (answer == HOST_BACKEND) {
		ctx->user_ip4 = to.backend.word[3];
		ctx->user_port = to.backend_port;
	}
	return 1;
}

HOT int host_to6(struct bpf_sock_addr *ctx, int connects)
{
	struct mesh_socket to = {};
	struct mesh_address address;
	enum host_answer answer;

	if (!host_is_ours(ctx, ctx->protocol))
		return 1;
	host_get6(ctx, &address);
	answer = host_ask(ctx, &address, &to, connects);
	if (answer == HOST_REFUSED)
		return host_refuse();
	if (answer == HOST_BACKEND)
		host_set6(ctx, &to.backend, to.backend_port);
	return 1;
}

/* getpeername() and recvfrom(): who from. */
HOT int host_from4(struct bpf_sock_addr *ctx)
{
	struct mesh_address address;
	struct mesh_socket *kept;

	if (!host_is_ours(ctx, ctx->protocol))
		return 1;
	address_set4(&address, ctx->user_ip4);
	kept = host_find(ctx, &address);
	if (kept) {
		ctx->user_ip4 = kept->service.word[3];
		ctx->user_port = kept->service_port;
	}
	return 1;
}

HOT int host_from6(struct bpf_sock_addr *ctx)
{
	struct mesh_address address;
	struct mesh_socket *kept;

	if (!host_is_ours(ctx, ctx->protocol))
		return 1;
	host_get6(ctx, &address);
	kept = host_find(ctx, &address);
	if (kept)
		host_set6(ctx, &kept->service, kept->service_port);
	return 1;
}

int mesh_hconnect4(struct bpf_sock_addr *ctx)
{
	return host_to4(ctx, 1);
}

int mesh_hconnect6(struct bpf_sock_addr *ctx)
{
	return host_to6(ctx, 1);
}

int mesh_hsendmsg4(struct bpf_sock_addr *ctx)
{
	return host_to4(ctx, 0);
}

int mesh_hsendmsg6(struct bpf_sock_addr *ctx)
{
	return host_to6(ctx, 0);
}

int mesh_hrecvmsg4(struct bpf_sock_addr *ctx)
{
	return host_from4(ctx);
}

int mesh_hrecvmsg6(struct bpf_sock_addr *ctx)
{
	return host_from6(ctx);
}

int mesh_hpeername4(struct bpf_sock_addr *ctx)
{
	return host_from4(ctx);
}

int mesh_hpeername6(struct bpf_sock_addr *ctx)
{
	return host_from6(ctx);
}
