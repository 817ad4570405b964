# SPDX-License-Identifier: BSD-2-Clause
"""The kernels that the tests run on: the matrix, virtual machines, and what the verifier says."""
