# A relay hears the main program and nobody else; an instance speaks to S3 and to nobody else. That keeps strangers'
# load away. No promise rests on it: a disk obeys signed commands only, and what it says is evidence.

resource "aws_security_group" "disk" {
  name        = "${var.name}-disk"
  description = "Disks of a Perdure array, reached by its main program alone"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "relay" {
  security_group_id            = aws_security_group.disk.id
  description                  = "The main program, to the relay"
  referenced_security_group_id = var.main_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 7001
  to_port                      = 7001
}

resource "aws_vpc_security_group_egress_rule" "s3" {
  security_group_id = aws_security_group.disk.id
  description       = "The disk's image and the system's packages"
  prefix_list_id    = var.s3_prefix_list_id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}
