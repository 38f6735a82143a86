{#-
SPDX-License-Identifier: GPL-3.0-or-later

In the backup template: the engines, dedup-store and dedup-server. In the template of disposable
restores: the shim. In dom0: nothing.
#}
{%- from "dedup-backup/map.jinja" import settings, constants with context %}
{%- if settings.is_dom0 %}
{#- Nothing. #}
{%- elif grains['id'] not in [settings.backup_template, settings.management_template] %}

"{{ slsdotpath }}-install-elsewhere":
  test.configurable_test_state:
    - changes: false
    - result: false
    - comment: >-
        This is neither the backup template {{ settings.backup_template }} nor the pillar's
        dedup-backup:management_template.
{%- else %}
{%- set is_backup = grains['id'] == settings.backup_template %}
{%- set folder = constants._backup_template_folder %}
{%- set files = 'salt://dedup-backup/files/' %}

"{{ slsdotpath }}-install-packages":
  pkg.installed:
    - pkgs: {{ (settings.backup_template_packages if is_backup
                else settings.management_shim_packages) | json }}
    - install_recommends: false
    - refresh: true

"{{ slsdotpath }}-install-folder":
  file.directory:
    - name: {{ folder }}
    - user: root
    - group: root
    - mode: "0755"
{%- if is_backup %}
  {%- set from = {'dedup-store': 'qube', 'dedup-server': 'server'} %}
  {%- set parts = {'backup_format': 'qube', 'dedup_store': 'qube', 'dedup_server': 'server'} %}
{%- else %}
  {%- set from = {'scrypt': 'dom0', 'shimctl': 'dom0'} %}
  {%- set parts = {'dom0_common': 'dom0', 'shimctl_lib': 'dom0', 'guard': 'dom0'} %}
{%- endif %}
{%- for program, side in from.items() %}

"{{ slsdotpath }}-install-program-{{ program }}":
  file.managed:
    - name: {{ folder }}/{{ program }}
    - source: {{ files }}{{ side }}/{{ program }}
    - user: root
    - group: root
    - mode: "0755"
    - show_changes: false
{%- endfor %}
{%- for part, side in parts.items() %}

"{{ slsdotpath }}-install-part-{{ part }}":
  file.recurse:
    - name: {{ folder }}/{{ part }}
    - source: {{ files }}{{ side }}/{{ part }}
    # The second is a program, see below.
    - exclude_pat: "E@__pycache__|qrexec-call"
    - user: root
    - group: root
    - dir_mode: "0755"
    - file_mode: "0644"
{%- endfor %}
{%- if is_backup %}

# A program among the parts: what the engines call to reach the storage qube.
"{{ slsdotpath }}-install-qrexec-call":
  file.managed:
    - name: {{ folder }}/dedup_store/qrexec-call
    - source: {{ files }}qube/dedup_store/qrexec-call
    - user: root
    - group: root
    - mode: "0755"
{%- for service in ['qube/rpc/dedupbackup.Restore', 'server/rpc/dedupbackup.Repository',
                    'server/rpc/dedupbackup.Maintenance',
                    'server/rpc/dedupbackup.MaintenanceOpen'] %}

"{{ slsdotpath }}-install-service-{{ service }}":
  file.managed:
    - name: /etc/qubes-rpc/{{ service.split('/') | last }}
    - source: {{ files }}{{ service }}
    - user: root
    - group: root
    - mode: "0755"
    - makedirs: true
    - dir_mode: "0755"
{%- endfor %}

"{{ slsdotpath }}-install-service-configuration":
  file.managed:
    - name: /etc/qubes/rpc-config/dedupbackup.MaintenanceOpen
    - source: {{ files }}server/rpc-config/dedupbackup.MaintenanceOpen
    - user: root
    - group: root
    - mode: "0644"
    - makedirs: true
    - dir_mode: "0755"
{%- for program in from %}

"{{ slsdotpath }}-install-link-{{ program }}":
  file.symlink:
    - name: /usr/bin/{{ program }}
    - target: ../lib/qubes-dedup-backup/{{ program }}
    - user: root
    - group: root
{%- endfor %}
{%- else %}

"{{ slsdotpath }}-install-shim":
  scrypt_shim.installed: []
{%- endif %}
{%- endif %}
