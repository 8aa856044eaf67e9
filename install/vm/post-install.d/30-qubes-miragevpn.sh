#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
#
# Run by qubes.PostInstall in the template: tells dom0 that qubes based on it can be VPN qubes.

qvm-features-request supported-service.miragevpn=1
