"""cloud-init's own data source for CloudStack, from its unpacked package: what it finds, as JSON."""
import json
import sys
import tempfile

sys.path.insert(0, sys.argv[1] + "/usr/lib/python3/dist-packages")

from cloudinit import helpers  # noqa: E402
from cloudinit.sources import DataSourceCloudStack as module  # noqa: E402

folder = tempfile.mkdtemp()
source = module.DataSourceCloudStack({}, None, helpers.Paths({"cloud_dir": folder, "run_dir": folder}))
found = source._get_data()
print(json.dumps({
    "found": found,
    "address": source.vr_addr,
    "id": source.get_instance_id() if found else None,
    "zone": source.availability_zone if found else None,
    "metadata": source.metadata,
    "user_data": (source.userdata_raw or b"").decode() if found else None,
    "config": source.get_config_obj(),
}))
