"""The Debian image: a full system, cloud-init and all, as its vendor would ship it."""

import tempfile

from guest import fetch, free_port, running, wait_until

MARK = "written by cloud-init"
USER_DATA = f"""#cloud-config
write_files:
  - path: /var/www/html/index.html
    content: |
      {MARK}
runcmd:
  - [sh, -c, "cloud-init query instance_id > /var/www/html/instance"]
"""


def test_debian_boots_to_the_final_stage_of_cloud_init(debian_image):
    port = free_port()
    with tempfile.NamedTemporaryFile("w") as user_data:
        user_data.write(USER_DATA)
        user_data.flush()
        arguments = ["--image", debian_image, "--cpus", "2", "--memory", "1G"]
        arguments += ["--user-data", user_data.name, "--publish", f"127.0.0.1:{port}:80"]
        with running(*arguments) as guest:
            finished = guest.wait_for(r"Cloud-init v\. \S+ finished at .* Datasource (\S+)", seconds=600)
            assert finished[1].startswith("DataSourceEc2")
            page = wait_until(lambda: fetch(port), "nginx")
            assert MARK in page
            identity = wait_until(lambda: fetch(port, "/instance"), "what runcmd wrote")
            assert identity.strip() == guest.control("GET", "/v1/machine")["id"]
            guest.wait_for(r"login:")
            guest.control("POST", "/v1/machine/power-button", {})
            assert guest.wait_end(seconds=240) == 0
