{#-
SPDX-License-Identifier: GPL-3.0-or-later

In the template of disposable restores: the shim goes. In dom0, after it: everything goes but the
qubes with the repositories, and what these can be read with; with the pillar's remove_data, they go
too, and nothing that was backed up can be restored.
#}
{%- from "dedup-backup/map.jinja" import settings, constants with context %}
{%- set shim = constants._shim_folder %}
{%- if settings.is_dom0 %}
{%- if settings.remove_data %}
{%- for qube in [settings.backup_qube, settings.storage_qube, settings.backup_template] if qube %}
{%- if not opts['test'] and qube != settings.backup_template %}

"{{ slsdotpath }}-remove-{{ qube }}-halted":
  qvm.shutdown:
    - name: {{ qube }}
    - onlyif:
      - fun: dedup_backup.qube_exists
        args: [{{ qube }}]
    - failhard: true
{%- endif %}

"{{ slsdotpath }}-remove-{{ qube }}-removable":
  dedup_backup.qube_removable:
    - name: {{ qube }}
    - failhard: true
{%- if not opts['test'] %}

"{{ slsdotpath }}-remove-{{ qube }}":
  qvm.absent:
    - name: {{ qube }}
    - failhard: true
{%- endif %}
{%- endfor %}
{#- Last, so that no repository is left whose passphrase is gone. #}
{%- for profile in settings.backup_profile_profiles %}

"{{ slsdotpath }}-remove-profile-{{ profile.name }}":
  dedup_backup.profile_absent:
    - name: {{ profile.name | json }}
    - failhard: true
{%- endfor %}
{%- else %}

# Before the program goes that knows it.
"{{ slsdotpath }}-remove-secrets-kept":
  cmd.run:
    - name: qubes-dedup-backup secrets
    - success_retcodes: [1, 2, 3, 4]
    - onlyif: test -x /usr/bin/qubes-dedup-backup
{%- endif %}

"{{ slsdotpath }}-remove-policy":
  dedup_backup.policy_absent:
    - name: {{ settings.qrexec_policy_file }}
    - failhard: true

"{{ slsdotpath }}-remove-shim":
  scrypt_shim.absent:
    - failhard: true
{%- for path in ['/usr/bin/shimctl', '/usr/bin/qubes-dedup-backup', shim] %}

# What a package brought, its removal takes away.
"{{ slsdotpath }}-remove-{{ path }}":
  file.absent:
    - name: {{ path }}
    - unless: rpm --query --file {{ shim }}/shimctl /usr/bin/shimctl
{%- endfor %}

"{{ slsdotpath }}-remove-storage":
  file.absent:
    - name: {{ constants._backup_qube_storage }}
{%- if settings.remove_data %}

"{{ slsdotpath }}-remove-records":
  file.absent:
    - name: /var/lib/qubes-dedup-backup
{%- endif %}

"{{ slsdotpath }}-remove-configuration":
  file.absent:
    - name: /etc/qubes-dedup-backup
    - unless: ls -A /etc/qubes-dedup-backup | grep -q .
{%- if not settings.remove_data %}

"{{ slsdotpath }}-remove-kept":
  test.show_notification:
    - text: >-
        Kept: the qubes {{ [settings.backup_qube, settings.storage_qube, settings.backup_template]
        | select | join(', ') }}, with the repositories in them; /var/lib/qubes-dedup-backup, dom0's
        records of what was backed up; /etc/qubes/backup, the profiles with their passphrases. To
        remove these too, set remove_data in the pillar, or add
        pillar='{dedup-backup: {remove_data: true} }'.
{%- endif %}
{%- elif grains['id'] == settings.management_template %}

"{{ slsdotpath }}-remove-shim":
  scrypt_shim.absent:
    - failhard: true
{%- for path in [shim, '/etc/qubes-dedup-backup', '/var/lib/qubes-dedup-backup'] %}

"{{ slsdotpath }}-remove-{{ path }}":
  file.absent:
    - name: {{ path }}
{%- endfor %}
{%- else %}

"{{ slsdotpath }}-remove-elsewhere":
  test.configurable_test_state:
    - changes: false
    - result: false
    - comment: This is neither dom0 nor the pillar's dedup-backup:management_template.
{%- endif %}
