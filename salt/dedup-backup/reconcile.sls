{#-
SPDX-License-Identifier: GPL-3.0-or-later

In dom0, after an update or upgrade of it: what the guard does by itself, asked for by hand.
#}
{%- from "dedup-backup/map.jinja" import settings with context %}
{%- if settings.is_dom0 %}

"{{ slsdotpath }}-reconcile-shim":
  scrypt_shim.reconciled: []
{%- endif %}
