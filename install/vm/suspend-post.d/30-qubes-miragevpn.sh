#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
#
# Run by qubes.SuspendPostAll after the machine woke up: connect anew now instead of waiting for a time-out.

[ -e /run/qubes-service/miragevpn ] || exit 0
systemctl --no-block kill --kill-who=main --signal=USR1 qubes-miragevpn.service
