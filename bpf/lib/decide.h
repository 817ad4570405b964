/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * May they? The answer of the policy to the question that judge.h has put; what may pass goes on to
 * store.h. A program of its own: the verifier follows the rules once for each thing that is known
 * before.
 */
#ifndef MESH_DECIDE_H
#define MESH_DECIDE_H

#include "lib/judge.h"
#include "lib/policy.h"

/* MESH_OK, or MESH_POLICY with j->verdict.rejected where the sender is to be told. */
HOT int decide_policy(const struct mesh_config *config, struct mesh_judgement *j,
		      const struct parties *who)
{
	__u32 action;

	policy_pairs(config, &j->question);
	policy_rules(j);
	action = j->verdict.strength & ((1 << POLICY_ACTION_BITS) - 1);
	if (j->verdict.strength == POLICY_NONE) {
		action = config->reject ? MESH_REJECT : MESH_DENY;
		if (policy_default(j->question.opener, who->opener, j->question.receiver,
				   who->receiver))
			action = MESH_ALLOW;
	}
	j->verdict.rejected = action == MESH_REJECT;
	return action == MESH_ALLOW ? MESH_OK : MESH_POLICY;
}

/* MESH_OK, also for what would not pass were its receiver not in audit; or a reason to drop. */
HOT int decide(const struct mesh_config *config, struct mesh_judgement *j)
{
	struct parties who = { endpoint_get(j->question.opener),
			       endpoint_get(j->question.receiver) };
	int reason;

	if (!who.opener || !who.receiver)
		return MESH_NO_FUNCTION;
	reason = decide_policy(config, j, &who);
	if (!reason || !(who.receiver->flags & MESH_FN_AUDIT))
		return reason;
	j->verdict.audited = 1;
	j->verdict.rejected = 0;
	return MESH_OK;
}

/* From a function to the outside, which may be by an uplink, or was? */
HOT int decide_is_out(const struct mesh_config *config, const struct mesh_judgement *j)
{
	return j->question.opener && !j->question.receiver &&
	       (config->masquerade || j->question.flags & MESH_FLOW_NAT_SRC);
}

/* May they? Of the question in mesh_scratch. */
HOT int mesh_decide(CTX *ctx)
{
	struct mesh_config *config = mesh_config_get();
	struct mesh_judgement *j = mesh_scratch_get();
	int reason;

	if (!config || !j)
		return mesh_drop(ctx, MESH_FROM_FN, MESH_NO_PROGRAM);
	reason = decide(config, j);
	if (!reason && !context_is_dry(ctx)) {
		verdict_call(ctx, decide_is_out(config, j) ? MESH_CALL_OUT : MESH_CALL_STORE);
		reason = MESH_NO_PROGRAM;
	}
	return judge_return(ctx, j, reason);
}
#endif
