#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
#
# Run by qubes.PostInstall in the template: tells dom0 that qubes based on it can be VPN qubes. Debian keeps this file when
# the package is removed (not purged): a template that only has this left must not say so, for dom0 makes VPN qubes of it.

lockdown=/usr/lib/qubes-miragevpn/qubes-miragevpn-lockdown

[ ! -x "$lockdown" ] || qvm-features-request supported-service.miragevpn=1
