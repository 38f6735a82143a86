{#-
SPDX-License-Identifier: GPL-3.0-or-later

In the backup qube: dedup-store's configuration. In the storage qube: the repositories that it
offers. In dom0, after these: the passwords, the repositories, and the backup profiles.
#}
{%- from "dedup-backup/map.jinja" import settings, constants with context %}
{%- set repositories = settings.backup_qube_repositories %}
{%- if settings.is_dom0 %}
{%- set qube = settings.backup_qube %}
{%- if not opts['test'] %}

"{{ slsdotpath }}-configure-started":
  qvm.start:
    - name: {{ qube }}
    - failhard: true
{%- endif %}
{%- for repository in repositories %}
{%- set call = '--json --qube=' ~ qube ~ ' --repository=' ~ repository.name %}

# dom0 makes the password and hands it over; it is in no file, log or argument here.
"{{ slsdotpath }}-configure-repository-{{ repository.name }}":
  cmd.run:
    - name: qubes-dedup-backup init {{ call }}
    - unless: "qubes-dedup-backup init --check {{ call }} | grep -q '\"changed\": false'"
{%- endfor %}
{%- for profile in settings.backup_profile_profiles %}

"{{ slsdotpath }}-configure-profile-{{ profile.name }}":
  dedup_backup.profile:
    - name: {{ profile.name | json }}
    - destination_vm: {{ qube }}
    - destination_path: {{ ('dedup-store put --repository ' ~ profile.repository) | json }}
    - include: {{ profile.include | default(none) | json }}
    - exclude: {{ profile.exclude | default(none) | json }}
    - never_include: {{ ([settings.storage_qube] if settings.storage_qube else []) | json }}
{%- endfor %}

{%- if settings.are_defaults %}

"{{ slsdotpath }}-configure-settings":
  test.show_notification:
    - text: >-
        All settings have their defaults: the pillar has none under the key dedup-backup, and there
        are none in /srv/user_pillar or /srv/pillar.
{%- endif %}

"{{ slsdotpath }}-configure-secrets":
  test.show_notification:
    - text: >-
        Keep the secrets off this machine: `sudo qubes-dedup-backup secrets` says which there are,
        and how they are shown. Nothing can be restored without them.
{%- elif grains['id'] == settings.backup_qube %}

"{{ slsdotpath }}-configure-program":
  test.configurable_test_state:
    - changes: false
    - result: false
    - comment: >-
        There is no dedup-store in this qube: apply dedup-backup.install to its template first, shut
        the template down, and restart this qube.
    - unless: test -e /usr/bin/dedup-store
    - failhard: true
{%- for folder in [constants._backup_qube_config, constants._backup_qube_store] %}

"{{ slsdotpath }}-configure-folder-{{ folder }}":
  file.directory:
    - name: {{ folder }}
    - user: user
    - group: user
    - mode: "0700"
{%- endfor %}
{#- The same template as the role's. #}
{%- set _backup_qube_config = constants._backup_qube_config %}
{%- set _backup_qube_store = constants._backup_qube_store %}
{%- for item in repositories %}
{%- set text %}{% include "dedup-backup/templates/dedup-store.toml.j2" %}{% endset %}

"{{ slsdotpath }}-configure-dedup-store-{{ item.name }}":
  file.managed:
    - name: {{ constants._backup_qube_config }}/{{ item.name }}.toml
    - contents: {{ text | json }}
    - user: user
    - group: user
    - mode: "0600"
{%- endfor %}
{%- if settings.backup_qube_devices %}
{%- set script = '/rw/config/rc.local.d/dedup-store.rc' %}

"{{ slsdotpath }}-configure-devices":
  file.managed:
    - name: {{ script }}
    - source: salt://dedup-backup/files/qube/dedup-store.rc
    - user: root
    - group: root
    - mode: "0755"
    - makedirs: true
    - dir_mode: "0755"
{%- for device in settings.backup_qube_devices %}
{%- set place = '/mnt/dedup-store/' ~ device %}

"{{ slsdotpath }}-configure-device-{{ device }}-now":
  cmd.run:
    - name: {{ script }}
    - unless: grep -q ' {{ place }} ' /etc/fstab
{%- endfor %}
{%- for item in repositories if item.device is defined %}

# As the user who backs up, as he mounts it later. It tells what hinders.
"{{ slsdotpath }}-configure-mounted-{{ item.name }}":
  cmd.run:
    - name: runuser -u user -- dedup-store mount --repository {{ item.name }}
    - unless: mountpoint --quiet /mnt/dedup-store/{{ item.device }}
    - failhard: true
{%- endfor %}
{%- for device in settings.backup_qube_devices %}
{%- set place = '/mnt/dedup-store/' ~ device %}

"{{ slsdotpath }}-configure-device-{{ device }}-folder":
  file.directory:
    - name: {{ place }}/dedup-store
    - user: user
    - group: user
    - mode: "0700"
    - onlyif: mountpoint --quiet {{ place }}
{%- endfor %}
{%- endif %}
{%- elif grains['id'] == settings.storage_qube %}

"{{ slsdotpath }}-configure-program":
  test.configurable_test_state:
    - changes: false
    - result: false
    - comment: >-
        There is no dedup-server in this qube: apply dedup-backup.install to its template first,
        shut the template down, and restart this qube.
    - unless: test -e /usr/bin/dedup-server
    - failhard: true

# root's alone to write: what may be reached is not the service's to change.
"{{ slsdotpath }}-configure-configuration":
  file.directory:
    - name: {{ constants._storage_qube_config }}
    - user: root
    - group: root
    - mode: "0755"

"{{ slsdotpath }}-configure-store":
  file.directory:
    - name: {{ constants._storage_qube_store }}
    - user: user
    - group: user
    - mode: "0700"
{#- The same template as the role's. #}
{%- set _storage_qube_store = constants._storage_qube_store %}
{%- for item in settings.storage_qube_repositories %}
{%- set text %}{% include "dedup-backup/templates/repository.toml.j2" %}{% endset %}

"{{ slsdotpath }}-configure-repository-{{ item.name }}":
  file.managed:
    - name: {{ constants._storage_qube_config }}/{{ item.name }}.toml
    - contents: {{ text | json }}
    - user: root
    - group: root
    - mode: "0644"
{%- endfor %}
{%- else %}

"{{ slsdotpath }}-configure-elsewhere":
  test.configurable_test_state:
    - changes: false
    - result: false
    - comment: >-
        This is neither the backup qube {{ settings.backup_qube }} nor the pillar's
        dedup-backup:storage_qube.
{%- endif %}
