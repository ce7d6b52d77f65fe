import subprocess
from pathlib import Path

import pytest
from prepared_python import python


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path):
    script = Path(__file__).with_name("kill_resume.py")
    command = [python(), str(script), "--kills=2", f"--folder={tmp_path}", "--seed=28", "--model.sampling.max_tokens=32"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert all(text in done.stdout for text in ("killed 2 times", "in the save after", "some time after"))
    assert "are those of a run that was not killed, bit for bit" in " ".join(done.stdout.split())
