{#-
SPDX-License-Identifier: GPL-3.0-or-later

In dom0: the shim, the policy, the backup template, the backup qube and the storage qube.
#}
{%- from "dedup-backup/map.jinja" import settings, constants with context %}
{%- if settings.is_dom0 %}
{%- set shim = constants._shim_folder %}

include:
  - .clone
{%- if settings.are_defaults %}

"{{ slsdotpath }}-create-settings":
  test.show_notification:
    - text: >-
        All settings have their defaults: the pillar has none under the key dedup-backup, and there
        are none in /srv/user_pillar or /srv/pillar.
{%- endif %}

"{{ slsdotpath }}-create-folder":
  file.directory:
    - name: {{ shim }}
    - user: root
    - group: root
    - mode: "0755"
    - order: 1
{%- for program in constants._shim_programs %}

"{{ slsdotpath }}-create-program-{{ program }}":
  file.managed:
    - name: {{ shim }}/{{ program }}
    - source: salt://dedup-backup/files/dom0/{{ program }}
    - user: root
    - group: root
    - mode: "0755"
    - makedirs: true
    - dir_mode: "0755"
    - show_changes: false
    - order: 1
{%- endfor %}
{%- for part in constants._shim_parts %}

"{{ slsdotpath }}-create-part-{{ part }}":
  file.recurse:
    - name: {{ shim }}/{{ part }}
    - source: salt://dedup-backup/files/dom0/{{ part }}
    - exclude_pat: "*__pycache__*"
    - user: root
    - group: root
    - dir_mode: "0755"
    - file_mode: "0644"
    - order: 1
{%- endfor %}
{%- for program in ['shimctl', 'qubes-dedup-backup'] %}

"{{ slsdotpath }}-create-link-{{ program }}":
  file.symlink:
    - name: /usr/bin/{{ program }}
    - target: ../lib/qubes-dedup-backup/{{ program }}
    - user: root
    - group: root
    - order: 1
{%- endfor %}

"{{ slsdotpath }}-create-shim":
  scrypt_shim.installed:
    - mode: {{ settings.shim_mode | json }}
    - method: {{ settings.shim_method }}
    - failhard: true
    - order: 1

{#- The same template as the role's. Before there is anything to call. #}
{%- set qrexec_policy_backup_qube = settings.backup_qube %}
{%- set qrexec_policy_storage_qube = settings.storage_qube %}
{%- set qrexec_policy_repositories = settings.storage_qube_repositories %}
{%- set rules %}{% include "dedup-backup/templates/rules.j2" %}{% endset %}

"{{ slsdotpath }}-create-policy":
  dedup_backup.policy:
    - name: {{ settings.qrexec_policy_file }}
    - rules: {{ rules.splitlines() | json }}
    - failhard: true
    - order: 1

"{{ slsdotpath }}-create-configuration":
  file.directory:
    - name: /etc/qubes-dedup-backup
    - user: root
    - group: root
    - mode: "0755"

# dom0 opens maintenance only where this says; it doesn't ask the backup qube.
{%- set backup_qube_name = settings.backup_qube %}
{%- set backup_qube_repositories = settings.backup_qube_repositories %}
{%- set _backup_qube_remote = constants._backup_qube_remote %}
{%- set storage %}{% include "dedup-backup/templates/server.toml.j2" %}{% endset %}
"{{ slsdotpath }}-create-storage":
  file.managed:
    - name: {{ constants._backup_qube_storage }}
    - contents: {{ storage | json }}
    - user: root
    - group: root
    - mode: "0644"

{%- set qubes = [{
  'name': settings.backup_qube, 'label': settings.backup_qube_label, 'netvm': 'none',
  'size': settings.backup_qube_private_size, 'services': constants._backup_qube_services
}] %}
{%- if settings.storage_qube %}
  {%- do qubes.insert(0, {
    'name': settings.storage_qube, 'label': settings.storage_qube_label,
    'netvm': settings.storage_qube_netvm, 'size': settings.storage_qube_private_size,
    'services': {}
  }) %}
{%- endif %}
{%- for qube in qubes %}

# Before anything is changed.
"{{ slsdotpath }}-create-{{ qube.name }}-possible":
  dedup_backup.qube_possible:
    - name: {{ qube.name }}
    - klass: AppVM
    - template: {{ settings.backup_template }}
    - label: {{ qube.label }}
    - netvm: {{ qube.netvm | json }}
    - properties:
        autostart: false
        include_in_backups: false
    - services: {{ qube.services | json }}
    - volume_sizes:
        private: {{ qube['size'] }}
    - order: first
    - failhard: true
{%- if not opts['test'] %}

"{{ slsdotpath }}-create-{{ qube.name }}":
  qvm.vm:
    - name: {{ qube.name }}
    - actions: [present, prefs, service, shutdown]
    - present:
      - template: {{ settings.backup_template }}
      - label: {{ qube.label }}
    - prefs:
      - label: {{ qube.label }}
      - netvm: {{ qube.netvm | json }}
      - autostart: false
      - include-in-backups: false
{%- if qube.services %}
    - service:
      - disable: {{ qube.services | list | json }}
{%- endif %}
    # A change of the template reaches it at its next start only.
    - shutdown: []
    - failhard: true

"{{ slsdotpath }}-create-{{ qube.name }}-volume":
  dedup_backup.volumes:
    - name: {{ qube.name }}
    - sizes:
        private: {{ qube['size'] }}
    - failhard: true
{%- endif %}
{%- endfor %}
{%- endif %}
