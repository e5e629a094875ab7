"""Config files of other training tools as recipes: every key is carried, or listed with the reason why it is not."""
