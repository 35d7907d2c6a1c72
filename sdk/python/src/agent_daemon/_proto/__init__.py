# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Generated from proto/agent/v1/agent.proto; see requirements-codegen.txt."""
