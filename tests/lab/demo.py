# SPDX-License-Identifier: BSD-2-Clause
"""The whole product in network namespaces, checked line by line: ``python -m tests.lab.demo [--provider P] [--stay]``

Builds the network of `network.py`, runs in sys-vpn the files and units of the package, and tells what a person would
see, while the AppVM `hostile` sends by every way it has without pause and a capture on both ends of the uplink counts
what is not the tunnel. Exit code 0 only if every check held and nothing is left on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shlex
import subprocess
import sys
import time
from contextlib import ExitStack, suppress

from tests.lab.appvm import Noise, ask, seen_address
from tests.lab.capture import Capture, Seen
from tests.lab.network import AppVM, Lab, python
from tests.lab.packets import Kind
from tests.lab.places import SITE_A, SITE_B, WEB4, WEB6, Site
from tests.lab.providers import OPENVPN, OWN, Providers
from tests.lab.qube import REPOSITORY, LabError
from tests.lab.service import Service, add_profiles, early
from tests.lab.show import DIM, GREEN, RED, Show, StoryEnds
from tests.lab.signals import ending_signals


class Demo:
    """The story; every method is a chapter."""

    def __init__(self, show: Show, lab: Lab, providers: Providers, capture: Capture) -> None:
        self.show, self.lab, self.providers, self.capture = show, lab, providers, capture
        self.service = Service(lab)
        self.work = lab.appvms["work"]
        self.rows: list[tuple[str, str, bool]] = []
        self._shown = 0

    def check(self, text: str, seen: str, good: bool) -> None:
        """Note a check for the table; one that fails ends the story."""
        self.rows.append((text, seen, good))
        if not good:
            raise AssertionError(f"{text}: {seen}")

    def no_clear_packet(self, when: str, noise: Noise) -> str:
        """Note that nothing but the tunnel was seen on the uplink so far; returns what to show."""
        seen, sent = self.capture.result(), sum(noise.sent.values())
        self.check(when, f"{seen.leaks} packets in clear", seen.leaks == 0)
        shown = f"{sent - self._shown} packets sent, {seen.leaks} seen on the uplink"
        self._shown = sent
        return shown

    def page(self, appvm: AppVM, site: Site, what: str, within: float = 40) -> str:
        """Fetch until the page shows the provider's address (a tunnel may need a moment); note the check."""
        deadline = time.monotonic() + within
        while (answer := seen_address(appvm)) != site.public4 and time.monotonic() < deadline:
            time.sleep(0.05)
        self.check(what, f"seen as {answer}", answer == site.public4)
        return f"hello, you are {answer}"

    # --- chapters -----------------------------------------------------------------------------------------

    def closed(self, noise: Noise) -> None:
        """Nothing passes before the service ever ran."""
        self.show.heading("Before the service runs")
        with self.show.step("hostile sends TCP, UDP, ICMP, DNS, IPv6, fragments ... without pause") as step:
            noise.rounds(25)
            step.outcome = self.no_clear_packet("closed before the service runs", noise)
        with self.show.step("work asks for the page") as step:
            step.outcome = seen_address(self.work)
            self.check("no page before the service runs", step.outcome, step.outcome.startswith("no: "))

    def connect(self) -> None:
        """Profile A."""
        self.show.heading("Profile provider-a (UDP, tls-crypt)")
        with self.show.step("the service starts") as step:
            self.service.start()
            step.outcome = "ready"
        with self.show.step("the tunnel comes up") as step:
            self.service.wait_state("connected", profile=SITE_A.name)
            step.outcome = "connected"
        with self.show.step("work fetches http://web.lab/") as step:
            step.outcome = self.page(self.work, SITE_A, "work is seen as provider A")
        with self.show.step("work resolves web.lab, and asks who answered") as step:
            name, who = ask(self.work, "name", "web.lab"), ask(self.work, "resolver")
            step.outcome = f"{name}, answered by {who}"
            self.check("names resolve in the tunnel", step.outcome, who == SITE_A.name)
        with self.show.step("work tries IPv6, which this tunnel does not carry") as step:
            step.outcome = seen_address(self.work, WEB6)
            self.check("IPv6 is refused", step.outcome, step.outcome.startswith("no: "))

    def switch(self) -> None:
        """Status and profile B by qrexec."""
        self.show.heading("qrexec services")
        with self.show.step("dom0 calls miragevpn.Status") as step:
            status = self.service.status()
            step.outcome = str(status.get("state"))
            self.check("status by qrexec", step.outcome, status.get("state") == "connected")
            text = json.dumps(status)
            secret = any(word in text for word in (SITE_A.public4, "a.vpn.lab", "PRIVATE"))
            self.check("status names no server", "none in it" if not secret else "it does", not secret)
        self.show.said(text)
        with self.show.step(f"dom0 calls miragevpn.Switch+{SITE_B.name} (TCP, tls-auth)") as step:
            stream = self.work.qube.popen([*python("gap.py"), WEB4, "10"], stdout=subprocess.PIPE)
            stream.stdout.readline()
            reply = self.service.call("Switch", SITE_B.name, source="dom0")
            self.check("switch by qrexec", f"exit code {reply.code} {reply.complaint.strip()}".strip(), reply.code == 0)
            self.service.wait_state("connected", profile=SITE_B.name)
            gaps = json.loads(stream.stdout.readline())
            switched = bool(gaps) and gaps[-1][2] == SITE_B.public4
            self.check("work's stream goes on", f"seen as {gaps[-1][2] if gaps else 'nothing'}", switched)
            step.outcome = f"connected, {gaps[-1][0]:.1f} s without traffic"
        with self.show.step("work fetches the page again") as step:
            step.outcome = self.page(self.work, SITE_B, "after the switch, seen as provider B")

    def plug(self) -> None:
        """Hot plug."""
        self.show.heading("Another AppVM is started")
        with self.show.step("personal is plugged in") as step:
            personal = self.lab.attach("personal")
            step.outcome = f"{personal.vif}, {personal.address.ip4}"
        with self.show.step("personal fetches the page") as step:
            step.outcome = self.page(personal, SITE_B, "a hot-plugged AppVM works at once", within=10)

    def kill(self, noise: Noise) -> None:
        """SIGKILL and healing."""
        self.show.heading("The service is killed")
        with self.show.step("kill -9, while hostile goes on sending for two seconds") as step:
            self.service.kill()
            noise.rounds(50)
            step.outcome = self.no_clear_packet("closed after SIGKILL", noise)
        with self.show.step("work asks for the page") as step:
            step.outcome = seen_address(self.work)
            self.check("no page while the service is dead", step.outcome, step.outcome.startswith("no: "))
        with self.show.step("systemd starts it again; the tunnel heals") as step:
            self.service.start()
            self.service.wait_state("connected", profile=SITE_B.name)
            step.outcome = self.page(self.work, SITE_B, "healed after the restart")

    def stop(self, noise: Noise) -> None:
        """A clean end."""
        self.show.heading("The service is stopped")
        with self.show.step("systemctl stop, while hostile goes on sending") as step:
            code = self.service.stop()
            noise.rounds(25)
            step.outcome = self.no_clear_packet("closed after a clean stop", noise)
            self.check("clean stop", f"exit code {code}", code == 0)


def build(show: Show, stack: ExitStack, provider: str, appvms: tuple[str, ...]) -> Demo:
    """The network, the providers and sys-vpn with its profiles; the service does not run yet."""
    show.heading("A Qubes network out of namespaces")
    with show.step("two AppVMs, sys-vpn, sys-net, internet, two providers") as step:
        lab = stack.enter_context(Lab(early, appvms=appvms))
        step.outcome = f"{len(lab.qubes)} namespaces"
    capture = stack.enter_context(Capture(lab))
    with show.step("the providers start; their profiles are copied into sys-vpn") as step:
        providers = Providers(lab, provider)
        providers.start()
        add_profiles(lab, providers, current=SITE_A.name)
        step.outcome = "openvpn 2.6" if provider == OPENVPN else "our own server"
    return Demo(show, lab, providers, capture)


def tell(show: Show, provider: str) -> int:
    """The whole story; returns the exit code."""
    demo: Demo | None = None
    with ExitStack() as stack:
        try:
            demo = build(show, stack, provider, ("work", "hostile"))
            noise = stack.enter_context(Noise(demo.lab.appvms["hostile"].qube))
            demo.closed(noise)
            demo.connect()
            demo.switch()
            demo.plug()
            demo.kill(noise)
            demo.stop(noise)
        except StoryEnds:
            if demo is not None and demo.service.log:
                show.line("  the service's last lines:")
                show.said(demo.service.tail())
        if demo is None:
            return 1
        seen = demo.capture.result()
        show.heading("The end")
        with suppress(StoryEnds), show.step("everything is taken down") as step:
            stack.close()
            left = demo.lab.leftovers()
            step.outcome = f"{len(left)} left-overs"
            demo.check("nothing is left on the machine", "; ".join(left) or step.outcome, not left)
    return report(show, demo.rows, seen)


def report(show: Show, rows: list[tuple[str, str, bool]], seen: Seen) -> int:
    """The table and the exit code."""
    show.heading("Checks")
    show.table(rows)
    for line in seen.clear[:20]:
        show.said(line)
    kinds = (f"{seen.counts[kind]} {kind.value}" for kind in (Kind.TUNNEL, Kind.LOOKUP, Kind.LINK))
    show.line(f"  packets on the uplink: {', '.join(kinds)}")
    good = all(step.good for step in show.steps) and seen.leaks == 0 and all(row[2] for row in rows)
    show.line(show.paint(f"  clear packets seen: {seen.leaks}", GREEN if good else RED, "1"))
    return 0 if good else 1


def stay(show: Show, provider: str) -> int:
    """The network, connected, left up until Enter or Ctrl-C."""
    with ExitStack() as stack:
        demo = build(show, stack, provider, ("work", "personal"))
        with show.step("the service starts, and profile provider-a connects"):
            demo.service.start()
            demo.service.wait_state("connected", profile=SITE_A.name)
        show.heading("Enter a qube with (as root)")
        for qube in demo.lab.qubes:
            show.line(f"  {qube.name:<11} nsenter -t {qube.holder.pid} -n -m -u")
        show.heading("And try")
        ask = f"python3 {shlex.quote(str(REPOSITORY / 'tests/lab/programs/ask.py'))}"  # one begins in / there
        show.line(f"  in work:     {ask} fetch web.lab")
        show.line(f"               {ask} resolver")
        show.line("  in sys-vpn:  miragevpn status; miragevpn switch provider-b; nft list table inet qubes-miragevpn")
        show.line(f"               kill -9 {demo.service.process.pid if demo.service.process else ''}")
        show.line(show.paint("\n  Enter or Ctrl-C takes everything down.", DIM))
        try:
            _wait(show, demo)
        except KeyboardInterrupt:
            show.line()
        seen = demo.capture.result()
        show.line(f"  clear packets seen: {seen.leaks}")
        for line in seen.clear[:20]:
            show.said(line)
        lab = demo.lab
    left = lab.leftovers()
    show.line("  everything is taken down" if not left else "  left over: " + "; ".join(left))
    return 0 if not left else 1


def _wait(show: Show, demo: Demo) -> None:
    """Until Enter; the service is started again when it ends, as systemd would."""
    watched = [sys.stdin] if sys.stdin.isatty() else []
    while not select.select(watched, [], [], 0.5)[0]:
        process = demo.service.process
        if process is not None and process.poll() is not None:
            show.line(f"  the service ended with {process.returncode}; starting it again, as systemd would")
            demo.service.launch()
            show.line(f"  it is process {demo.service.process.pid if demo.service.process else ''} now")
    sys.stdin.readline()


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.demo", description=__doc__.splitlines()[0])
    default = os.environ.get("PROVIDER", OWN)
    parser.add_argument("--provider", choices=(OWN, OPENVPN), default=default, help="what the VPN providers run")
    parser.add_argument("--stay", "--lab", action="store_true", help="leave the network up until Enter or Ctrl-C")
    arguments = parser.parse_args()
    show = Show()
    begin = time.monotonic()
    with ending_signals():
        try:
            if arguments.stay:
                return stay(show, arguments.provider)
            code = tell(show, arguments.provider)
        except KeyboardInterrupt:
            show.line("\n  interrupted; everything is taken down")
            return 130
        except (StoryEnds, LabError) as error:
            show.line(f"  {error}" if str(error) else "")
            return 1
    show.line(show.paint(f"  {time.monotonic() - begin:.1f} s", DIM))
    return code


if __name__ == "__main__":
    sys.exit(main())
