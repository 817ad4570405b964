/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Empty: BCC's own (bcc/helpers.h) includes it, network programs use nothing of it. */
