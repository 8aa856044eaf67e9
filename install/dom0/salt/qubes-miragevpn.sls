# SPDX-License-Identifier: BSD-2-Clause
# A VPN qube by Salt. In dom0 it is made by the tool, whose plan is empty when nothing is missing; in a template the package
# is installed, which has to be done first:
#
#     qubesctl --skip-dom0 --targets=TEMPLATE state.sls qubes-miragevpn
#     qubesctl state.sls qubes-miragevpn
#
# What may be said in the pillar, with what holds otherwise:
#
#     qubes-miragevpn:
#       name: sys-vpn
#       label: green
#       template: TEMPLATE        # the system's default template
#       netvm: QUBE               # the system's default netvm
#       endpoints:                # what the VPN qube itself may reach; everything
#         - 203.0.113.1:1194/udp
#       clients: [QUBE]           # none is attached

{%- set vpn = salt['pillar.get']('qubes-miragevpn', {}) %}
{%- set name = vpn.get('name', 'sys-vpn') %}

{%- if grains['id'] == 'dom0' %}
{%- set options = ['--label ' ~ vpn.get('label', 'green')] %}
{%- if 'template' in vpn %}{% do options.append('--template ' ~ vpn['template']) %}{% endif %}
{%- if 'netvm' in vpn %}{% do options.append('--netvm ' ~ vpn['netvm']) %}{% endif %}
{%- for endpoint in vpn.get('endpoints', []) %}{% do options.append('--allow-endpoint ' ~ endpoint) %}{% endfor %}

{{ name }}-is-made:
  cmd.run:
    - name: >-
        qvm-miragevpn create {{ name }} {{ options | join(' ') }}
    - unless: >-
        qvm-miragevpn create {{ name }} {{ options | join(' ') }} --dry-run | grep -qx '{{ name }}: nothing to do'

{%- if vpn.get('clients') %}

{{ name }}-is-used:
  cmd.run:
    - name: >-
        qvm-miragevpn attach --vpn {{ name }} {{ vpn['clients'] | join(' ') }}
    - unless: >-
        qvm-miragevpn attach --vpn {{ name }} {{ vpn['clients'] | join(' ') }} --dry-run | grep -qx 'attach to {{ name }}: nothing to do'
    - require:
      - cmd: {{ name }}-is-made
{%- endif %}

{%- else %}

qubes-miragevpn:
  pkg.installed: []
{%- endif %}
