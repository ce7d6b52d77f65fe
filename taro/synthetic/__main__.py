"""`python -m taro.synthetic`: videos of the synthetic world, see `taro.synthetic.world`."""

from taro.errors import clean_exit
from taro.synthetic.world import main

if __name__ == "__main__":
    with clean_exit():
        main()
