{#-
SPDX-License-Identifier: GPL-3.0-or-later

In dom0: the backup template, as a clone.
#}
{%- from "dedup-backup/map.jinja" import settings with context %}
{%- if settings.is_dom0 %}

"{{ slsdotpath }}-clone-possible":
  dedup_backup.qube_possible:
    - name: {{ settings.backup_template }}
    - clone_of: {{ settings.backup_template_clone_of }}
    - klass: TemplateVM
    - label: {{ settings.backup_template_label }}
    - order: first
    - failhard: true

{#- Upstream's qvm.prefs sets values with test=True, too: what would change is told above. #}
{%- if not opts['test'] %}

# A clone that was cut short looks like a whole one: this tells them apart.
"{{ slsdotpath }}-clone-begun":
  qvm.features:
    - name: dom0
    - enable:
      - dedup-backup-cloning-{{ settings.backup_template }}
    - unless:
      - fun: dedup_backup.qube_exists
        args: [{{ settings.backup_template }}]

"{{ slsdotpath }}-clone-cloned":
  qvm.clone:
    - name: {{ settings.backup_template }}
    - source: {{ settings.backup_template_clone_of }}
    - failhard: true

# The clone has its source's time of the last backup, and would look backed up.
"{{ slsdotpath }}-clone-never-backed-up":
  qvm.prefs:
    - name: {{ settings.backup_template }}
    - last-backup: "*default*"
    - onlyif:
      - fun: dedup_backup.is_half_made
        args: [{{ settings.backup_template }}]

"{{ slsdotpath }}-clone-ended":
  qvm.features:
    - name: dom0
    - default:
      - dedup-backup-cloning-{{ settings.backup_template }}
    - onlyif:
      - fun: dedup_backup.is_half_made
        args: [{{ settings.backup_template }}]

"{{ slsdotpath }}-clone-label":
  qvm.prefs:
    - name: {{ settings.backup_template }}
    - label: {{ settings.backup_template_label }}
    - failhard: true
{%- endif %}
{%- endif %}
