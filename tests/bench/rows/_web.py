"""The programs that silmaril is compared with: nginx as the origin, and an rclone mount of it."""
import time
from pathlib import Path


def serve_with_nginx(host, directory, port=8080):
    """Serves a directory with nginx on a host and returns its address."""
    work = host.home / "nginx"
    work.mkdir()
    config = work / "nginx.conf"
    config.write_text(f"""user root; daemon on; worker_processes 1; pid {work}/pid; error_log {work}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; tcp_nopush on;
    client_body_temp_path {work}; proxy_temp_path {work}; fastcgi_temp_path {work}; uwsgi_temp_path {work}; scgi_temp_path {work};
    server {{ listen {host.address}:{port}; location / {{ root {directory}; autoindex on; }} }}
}}
""")
    host.run("nginx", "-c", config)
    return f"http://{host.address}:{port}"


def mount_with_rclone(host, url):
    """Mounts the files below an address with rclone, with its own cache of full files, and returns the directory."""
    mounted = host.home / "rclone"
    mounted.mkdir()
    host.start("rclone", "mount", ":http:", mounted, "--http-url", url, "--vfs-cache-mode", "full",
               "--dir-cache-time", "1h", "--config", "/dev/null", stdout=None, stderr=None)
    deadline = time.monotonic() + 20
    while not Path(mounted).is_mount():
        if time.monotonic() > deadline:
            raise RuntimeError("rclone did not mount within 20 s")
        time.sleep(0.02)
    return mounted
